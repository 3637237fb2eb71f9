"""Ask a running service everything through a client generated from its own OpenAPI; run by scripts/e2e_serving.py.

ask_with_client.py ADDRESS USER ITEM...   (with the generated package `eager_llm_client` on the path)

Runs in the environment of the generator alone, as a program of somebody else would. Prints one JSON list of
[what, endpoint, status, answer] a line, and ends with another status than 0 where an answer does not parse.
"""

import json
import sys
from datetime import UTC, datetime

from eager_llm_client import Client
from eager_llm_client.api.answers import describe, recommend, search, similar
from eager_llm_client.api.events import events
from eager_llm_client.api.metadata import info, item, items, users
from eager_llm_client.models import (
    DescribeRequest,
    ErrorAnswer,
    EventRequest,
    RecommendRequest,
    SearchRequest,
    SimilarRequest,
)


def main() -> None:
    """Ask, and print what came as the client's own types."""
    address, user, *items_of_shop = sys.argv[1:]
    client = Client(base_url=address)
    event = EventRequest(
        user_id="a client's user",
        item_id=items_of_shop[0],
        timestamp=datetime(2026, 1, 1, tzinfo=UTC),
    )
    calls = [
        ("recommend", recommend, {"body": RecommendRequest(user_id=user, k=5)}),
        (
            "recommend, explained",
            recommend,
            {"body": RecommendRequest(items=items_of_shop[:3], k=3, explain=True)},
        ),
        ("search", search, {"body": SearchRequest(words="a gift", k=5)}),
        ("describe", describe, {"body": DescribeRequest(item_id=items_of_shop[0])}),
        ("similar", similar, {"body": SimilarRequest(item_id=items_of_shop[0], k=4)}),
        ("event", events, {"body": event}),
        ("items", items, {"words": "the", "limit": 3}),
        ("item", item, {"item_id": items_of_shop[0]}),
        ("users", users, {"limit": 3}),
        ("info", info, {}),
        ("refused", item, {"item_id": "none"}),
    ]
    for what, endpoint, arguments in calls:
        answer = endpoint.sync_detailed(client=client, **arguments)
        refused = isinstance(answer.parsed, ErrorAnswer)
        if answer.parsed is None or refused != (what == "refused"):
            sys.exit(
                f"{what}: status {answer.status_code}, not what the client knows: {answer.content[:200]!r}"
            )
        shown = answer.parsed.error.code if refused else type(answer.parsed).__name__
        print(
            json.dumps(
                [what, endpoint.__name__.rsplit(".", 1)[-1], int(answer.status_code), str(shown)]
            )
        )


if __name__ == "__main__":
    main()
