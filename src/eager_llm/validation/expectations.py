"""The suites of events, items and histories: each rule is a query for the rows that break it."""

from eager_llm.data.tables import LONGEST_ID, TEXT_COLUMNS
from eager_llm.settings import GateSettings
from eager_llm.validation.gate import Gate

_EVENT = "SELECT user_id, item_id, timestamp FROM events"
_WITHOUT_TEXT = " AND ".join(f"coalesce({column}, '') = ''" for column in TEXT_COLUMNS)
# The share of the items that have text.
TEXT_SHARE = f"SELECT 1 - avg(CASE WHEN {_WITHOUT_TEXT} THEN 1 ELSE 0 END) FROM items"

# In the order of the rows, a user's lying together, which is how everything after reads them.
_BACKWARDS = (
    "SELECT user_id, item_id, timestamp FROM ("
    "SELECT user_id, item_id, timestamp, lag(user_id) OVER () AS earlier_user, "
    "lag(timestamp) OVER () AS earlier FROM events"
    ") WHERE user_id = earlier_user AND timestamp <= earlier"
)


def log_gates(settings: GateSettings) -> list[Gate]:
    """Return the suites of the table `events` and, derived from it, of users."""
    few_events = (
        "SELECT user_id, count(*) AS events FROM events "
        f"GROUP BY user_id HAVING count(*) < {settings.min_user_events}"
    )
    return [
        Gate(
            name="unique-events",
            table="events",
            rule="an event happens once",
            rows_sql=f"{_EVENT} GROUP BY ALL HAVING count(*) > 1",
        ),
        Gate(
            name="users-named",
            table="events",
            rule="every event names a user",
            rows_sql=f"{_EVENT} WHERE coalesce(user_id, '') = ''",
        ),
        Gate(
            name="short-ids",
            table="events",
            rule=f"no user id is longer than {LONGEST_ID} characters: the service takes none",
            rows_sql=f"{_EVENT} WHERE length(user_id) > {LONGEST_ID}",
        ),
        Gate(
            name="times-given",
            table="events",
            rule="every event has a time",
            rows_sql=f"{_EVENT} WHERE timestamp IS NULL",
        ),
        Gate(
            name="known-items",
            table="events",
            rule="every item of the log is in the catalogue",
            rows_sql=f"{_EVENT} ANTI JOIN items USING (item_id)",
        ),
        Gate(
            name="time-forward",
            table="events",
            rule="time goes forward within a user",
            rows_sql=_BACKWARDS,
        ),
        Gate(
            name="user-events",
            table="users",
            rule=f"every user has at least {settings.min_user_events} events",
            rows_sql=few_events,
        ),
        Gate(
            name="users",
            table="users",
            rule=f"at least {settings.min_users} users are left",
            figure_sql="SELECT count(DISTINCT user_id) FROM events",
            least=settings.min_users,
            most=None,
        ),
    ]


def item_gates(settings: GateSettings, needs_text: bool) -> list[Gate]:
    """Return the suite of the table `items`.

    Args:
        settings: the thresholds.
        needs_text: whether items need text.
    """
    gates = [
        Gate(
            name="unique-items",
            table="items",
            rule="an item id stands once in the catalogue",
            rows_sql=(
                "SELECT item_id, count(*) AS times FROM items GROUP BY item_id HAVING count(*) > 1"
            ),
        ),
        Gate(
            name="items-named",
            table="items",
            rule="every item has an id",
            rows_sql="SELECT * FROM items WHERE coalesce(item_id, '') = ''",
        ),
        Gate(
            name="short-item-ids",
            table="items",
            rule=f"no item id is longer than {LONGEST_ID} characters: the service takes none",
            rows_sql=f"SELECT item_id FROM items WHERE length(item_id) > {LONGEST_ID}",
        ),
    ]
    if needs_text:
        text_gate = Gate(
            name="item-text",
            table="items",
            rule=(
                f"at least {settings.min_text_share:.0%} of the items have text "
                "(a shop without text: index.sources=behaviour)"
            ),
            rows_sql=f"SELECT item_id FROM items WHERE {_WITHOUT_TEXT}",
            figure_sql=TEXT_SHARE,
            least=settings.min_text_share,
            most=None,
        )
        gates.append(text_gate)
    return gates


def history_gates(max_history: int) -> list[Gate]:
    """Return the suite of the table `examples`: targets with their point-in-time histories.

    Args:
        max_history: items that a history may have.
    """
    target = "SELECT user_id, item_id, moment, split FROM examples"
    return [
        Gate(
            name="history-length",
            table="histories",
            rule=f"no history is longer than {max_history}",
            rows_sql=f"{target} WHERE len(history) > {max_history}",
        ),
        Gate(
            name="history-items",
            table="histories",
            rule="no history holds an empty item",
            rows_sql=(f"{target} WHERE list_contains(history, '') OR list_contains(history, NULL)"),
        ),
        Gate(
            name="history-given",
            table="histories",
            rule="every test target has a history",
            rows_sql=f"{target} WHERE split = 'test' AND len(history) = 0",
        ),
    ]
