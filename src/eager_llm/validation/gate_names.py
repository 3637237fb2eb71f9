"""The names of all gates, so that a decision to waive one can be checked wherever its rule lives.

The rules of an index live with the index and those of a bundle with the bundle. Here are names
alone; a test holds them against the suites.
"""

from collections.abc import Sequence

from eager_llm.core.errors import UserError

LOG_GATES = (
    "unique-events",
    "users-named",
    "short-ids",
    "times-given",
    "known-items",
    "time-forward",
    "user-events",
    "users",
)
ITEM_GATES = ("unique-items", "items-named", "short-item-ids", "item-text")
DRIFT_GATES = (
    "events-size",
    "users-size",
    "items-size",
    "catalogue-drift",
    "popularity-drift",
    "length-drift",
    "text-drift",
)
HISTORY_GATES = ("history-length", "history-items", "history-given")
INDEX_GATES = (
    "index-complete",
    "index-known",
    "index-once",
    "index-levels",
    "index-unique",
    "index-capacity",
    "embeddings-complete",
    "embeddings-finite",
)
BUNDLE_GATES = (
    "bundle-files",
    "bundle-catalogue",
    "bundle-decodable",
    "bundle-fallback",
    "metrics-finite",
    "metrics-given",
    "metrics-kept",
)
GATE_NAMES = frozenset(
    (*LOG_GATES, *ITEM_GATES, *DRIFT_GATES, *HISTORY_GATES, *INDEX_GATES, *BUNDLE_GATES)
)


def check_waived(waived: Sequence[str]) -> None:
    """Check that a decision to go on without gates names gates.

    Args:
        waived: names of gates, of any suite.

    Raises:
        UserError: there is no gate of a name; it is named, with those that there are.
    """
    unknown = [name for name in waived if name not in GATE_NAMES]
    if unknown:
        known_names = ", ".join(sorted(GATE_NAMES))
        raise UserError(f"waived: no gate is called {', '.join(unknown)}; there are {known_names}")
