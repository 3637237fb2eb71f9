"""What `helm test` runs: the decoder answers from the model, and the online store is read.

Arguments: the service's address; "users" where users can be asked for.
"""

import json
import os
import sys
import time
import urllib.request

ATTEMPTS = 10
service = sys.argv[1]
reads_users = "users" in sys.argv[2:]
key = os.environ.get("EAGER_LLM_API_KEY")
headers = {"Content-Type": "application/json"}
if key:
    headers["Authorization"] = f"Bearer {key}"


def ask(path: str, body: dict | None = None) -> bytes:
    """Return an answer's body; anything but 2xx raises."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(service + path, data, headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        return response.read()


def recommend(body: dict) -> dict:
    """Return a recommendation."""
    return json.loads(ask("/recommend", body))


def check_decoder() -> None:
    """Ask with an item of the catalogue: the model has to answer, not the fallback."""
    popular = recommend({"items": [], "k": 1})["items"]
    if not popular:
        sys.exit("no item was recommended for an empty history")
    history = [popular[0]["item_id"]]
    for _ in range(ATTEMPTS):
        answer = recommend({"items": history, "k": 1})
        if answer["source"] == "model":
            print(f"the model answers: {answer['items']}")
            return
        time.sleep(1)
    sys.exit(f"the model does not answer: {answer['source']}, {answer.get('reason')}")


def check_online_store() -> None:
    """Ask for a user that cannot exist: the store has to say so, not to be away."""
    for _ in range(ATTEMPTS):
        reason = recommend({"user_id": "helm-test of no user", "k": 1}).get("reason")
        if reason == "unknown_user":
            print("the online store answers")
            return
        time.sleep(1)
    sys.exit(f"the online store does not answer: {reason}")


ask("/readyz")
check_decoder()
if reads_users:
    check_online_store()
