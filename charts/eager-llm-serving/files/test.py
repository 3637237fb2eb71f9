"""What `helm test` runs: the service is ready and answers a request."""

import json
import os
import sys
import urllib.request

service = sys.argv[1]
key = os.environ.get("EAGER_LLM_API_KEY")
headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})


def ask(path: str, body: bytes | None = None) -> bytes:
    """Return an answer's body; anything but 2xx raises."""
    request = urllib.request.Request(service + path, body, headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return answer.read()


ask("/readyz")
answer = json.loads(ask("/recommend", b'{"items": [], "k": 1}'))
print(answer)
sys.exit(0 if len(answer["items"]) == 1 else "no item was recommended")
