"""A client beside the others: asks for the same again and again until its input ends.

Prints one JSON object: the seconds of each answer, and how many had each status. It is a process of
its own, so that no other client's work is in its seconds.
"""

import json
import select
import sys
import time
from collections import Counter

import httpx

address, body, pause = sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3])
seconds, statuses = [], Counter()
with httpx.Client(base_url=address, timeout=60) as client:
    while not select.select([sys.stdin], [], [], pause)[0]:
        began = time.monotonic()
        answer = client.post("/recommend", json=body)
        seconds.append(time.monotonic() - began)
        statuses[str(answer.status_code)] += 1
print(json.dumps({"seconds": seconds, "statuses": statuses}))
