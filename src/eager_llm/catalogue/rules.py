"""What is asked of events, items and histories: each rule a query for the rows that break it."""

from dataclasses import dataclass

from eager_llm.catalogue.tables import TEXT_COLUMNS
from eager_llm.settings import GateSettings


@dataclass(frozen=True)
class Gate:
    """A rule.

    Attributes:
        name: short, for reports and for `gates.continue_without`.
        broken: SQL for the rows that break it; empty where it is about the whole.
        figure: SQL for the figure that is bounded; empty: the number of broken rows.
        least, most: the bounds, inclusive.
    """

    name: str
    table: str
    rule: str
    broken: str = ""
    figure: str = ""
    least: float | None = None
    most: float | None = 0


def log_gates(settings: GateSettings) -> list[Gate]:
    """Return the suites of the tables `events` and, derived from it, users."""
    few = (
        f"SELECT user_id, count(*) AS events FROM events GROUP BY user_id HAVING count(*) < {settings.min_user_events}"
    )
    return [
        Gate("unique-events", "events", "an event happens once",
             "SELECT user_id, item_id, timestamp FROM events GROUP BY ALL HAVING count(*) > 1"),
        Gate("users-named", "events", "every event names a user",
             "SELECT user_id, item_id, timestamp FROM events WHERE coalesce(user_id, '') = ''"),
        Gate("times-given", "events", "every event has a time",
             "SELECT user_id, item_id, timestamp FROM events WHERE timestamp IS NULL"),
        Gate("known-items", "events", "every item of the log is in the catalogue",
             "SELECT user_id, item_id, timestamp FROM events ANTI JOIN items USING (item_id)"),
        Gate("time-forward", "events", "time goes forward within a user", _BACKWARDS),
        Gate("user-events", "users", f"every user has at least {settings.min_user_events} events", few),
        Gate("users", "users", f"at least {settings.min_users} users are left",
             figure="SELECT count(DISTINCT user_id) FROM events", least=settings.min_users, most=None),
    ]  # fmt: skip


# In the order of the rows, a user's lying together, which is how everything after reads them.
_BACKWARDS = (
    "SELECT user_id, item_id, timestamp FROM (SELECT user_id, item_id, timestamp, lag(user_id) OVER () AS earlier_user, "
    "lag(timestamp) OVER () AS earlier FROM events) WHERE user_id = earlier_user AND timestamp <= earlier"
)


def item_gates(settings: GateSettings, needs_text: bool) -> list[Gate]:
    """Return the suite of the table `items`."""
    gates = [
        Gate("unique-items", "items", "an item id stands once in the catalogue",
             "SELECT item_id, count(*) AS times FROM items GROUP BY item_id HAVING count(*) > 1"),
        Gate("items-named", "items", "every item has an id", "SELECT * FROM items WHERE coalesce(item_id, '') = ''"),
    ]  # fmt: skip
    if needs_text:
        silent = " AND ".join(f"coalesce({column}, '') = ''" for column in TEXT_COLUMNS)
        share = f"SELECT 1 - avg(CASE WHEN {silent} THEN 1 ELSE 0 END) FROM items"
        rule = f"at least {settings.min_text_share:.0%} of the items have text (a shop without text: index.sources=behaviour)"
        gates.append(
            Gate(
                "item-text",
                "items",
                rule,
                f"SELECT item_id FROM items WHERE {silent}",
                share,
                settings.min_text_share,
                None,
            )
        )
    return gates


def history_gates(max_history: int) -> list[Gate]:
    """Return the suite of the table `examples`: targets with their point-in-time histories."""
    keys = "SELECT user_id, item_id, moment, part FROM examples WHERE "
    return [
        Gate("history-length", "histories", f"no history is longer than {max_history}", f"{keys}len(history) > {max_history}"),
        Gate("history-items", "histories", "no history holds an empty item", f"{keys}list_contains(history, '') OR list_contains(history, NULL)"),
        Gate("history-given", "histories", "every test target has a history", f"{keys}part = 'test' AND len(history) = 0"),
    ]  # fmt: skip
