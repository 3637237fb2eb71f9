"""What is asked of events, items, histories, indices and bundles: each rule a query for the rows that break it."""

from collections.abc import Sequence
from dataclasses import dataclass

from eager_llm.data.tables import TEXT_COLUMNS
from eager_llm.settings import AcceptanceSettings, GateSettings


@dataclass(frozen=True)
class Gate:
    """A rule.

    Attributes:
        name: short, for reports and for `gates.waived`.
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

    @property
    def bounds(self) -> str:
        """The bounds in words."""
        if self.least is None:
            return "none" if self.most == 0 else f"at most {self.most:g}"
        return (
            f"at least {self.least:g}" if self.most is None else f"{self.least:g} to {self.most:g}"
        )


def log_gates(settings: GateSettings) -> list[Gate]:
    """Return the suites of the tables `events` and, derived from it, users."""
    few = f"SELECT user_id, count(*) AS events FROM events GROUP BY user_id HAVING count(*) < {settings.min_user_events}"
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
    keys = "SELECT user_id, item_id, moment, split FROM examples WHERE "
    return [
        Gate("history-length", "histories", f"no history is longer than {max_history}", f"{keys}len(history) > {max_history}"),
        Gate("history-items", "histories", "no history holds an empty item", f"{keys}list_contains(history, '') OR list_contains(history, NULL)"),
        Gate("history-given", "histories", "every test target has a history", f"{keys}split = 'test' AND len(history) = 0"),
    ]  # fmt: skip


def index_gates(sources: Sequence[str], branching: int, even: bool) -> list[Gate]:
    """Return the suite of an item index: the views `items`, `paths` (item_id, codes) and `vectors`.

    Args:
        sources: the source of each level, in the order of the codes.
        even: no node holds more than its even share of the items, as a balanced build leaves it; else
            only no more than there are paths below it.
    """
    levels = len(sources)
    paths, nodes = [], []
    for source in dict.fromkeys(sources):
        first, height = sources.index(source) + 1, sources.count(source)
        path = f"codes[{first}:{first + height - 1}]"
        paths.append(f"SELECT '{source}' AS source, {path} AS path, count(*) AS items, min(item_id) AS first, max(item_id) AS last "
                     "FROM paths GROUP BY ALL HAVING count(*) > 1")  # fmt: skip
        for depth in range(1, height + 1):
            room = (
                f"ceil((SELECT count(*) FROM paths) / {branching**depth})"
                if even
                else f"{branching ** (height - depth)}"
            )
            nodes.append(f"SELECT '{source}' AS source, codes[{first}:{first + depth - 1}] AS node, count(*) AS items "
                         f"FROM paths GROUP BY ALL HAVING count(*) > {room}")  # fmt: skip
    share = "its even share of" if even else "as many as there are paths for"
    return [
        Gate("index-complete", "index", "every item of the catalogue has a path", "SELECT item_id FROM items ANTI JOIN paths USING (item_id)"),
        Gate("index-known", "index", "every path is of an item of the catalogue", "SELECT item_id FROM paths ANTI JOIN items USING (item_id)"),
        Gate("index-once", "index", "an item has one path", "SELECT item_id, count(*) AS paths FROM paths GROUP BY item_id HAVING count(*) > 1"),
        Gate("index-levels", "index", f"a path has {levels} labels from 0 to {branching - 1}",
             f"SELECT item_id, codes FROM paths WHERE len(codes) IS DISTINCT FROM {levels} OR list_min(codes) < 0 OR list_max(codes) >= {branching}"),
        Gate("index-unique", "index", "no two items share a path of a source", " UNION ALL ".join(paths)),
        Gate("index-capacity", "index", f"no node holds more than {share} the items", " UNION ALL ".join(nodes)),
        Gate("embeddings-complete", "embeddings", "every source has one vector an item",
             "SELECT source, vectors FROM vectors WHERE vectors <> (SELECT count(*) FROM items)"),
        Gate("embeddings-finite", "embeddings", "every number of every vector is finite, and no vector is zero", "SELECT * FROM broken_vectors"),
    ]  # fmt: skip


def bundle_gates(settings: AcceptanceSettings) -> list[Gate]:
    """Return the suite of a bundle.

    Its views: `files` (fault), `items`, `catalogue` and `fallback` (item_id), `lost` (item_id, found), `metrics` and
    `accepted` (split, method, metric, value).
    """
    both = "SELECT item_id, '{0} only' AS stands FROM {0} ANTI JOIN {1} USING (item_id) UNION ALL SELECT item_id, '{1} only' FROM {1} ANTI JOIN {0} USING (item_id)"
    dropped = (
        f"SELECT split, method, metric, a.value AS accepted, m.value AS now FROM accepted a LEFT JOIN metrics m USING (split, method, metric) "
        f"WHERE split = 'test' AND method = 'EAGER-LLM + item prior' AND NOT coalesce(m.value >= a.value * {1 - settings.max_metric_drop!r}, false)"
    )
    gates = [
        Gate("bundle-files", "bundle", "every file is there, and is as its checksum says", "SELECT * FROM files"),
        Gate("bundle-catalogue", "bundle", "the catalogue's items are those of the item index", both.format("catalogue", "items")),
        Gate("bundle-decodable", "bundle", "every item's tokens lead to it in the trie", "SELECT * FROM lost"),
        Gate("bundle-fallback", "bundle", "the fallback ranks every item once",
             both.format("fallback", "items") + " UNION ALL SELECT item_id, 'twice' FROM fallback GROUP BY item_id HAVING count(*) > 1"),
        Gate("metrics-finite", "bundle", "every metric is a number from 0 to 1",
             "SELECT * FROM metrics WHERE value IS NULL OR NOT isfinite(value) OR value < 0 OR value > 1"),
        Gate("metrics-given", "bundle", "the model has been measured on test",
             figure="SELECT count(*) FROM metrics WHERE split = 'test' AND method = 'EAGER-LLM + item prior'", least=1, most=None),
    ]  # fmt: skip
    if settings.baseline:
        rule = f"no test metric of the model is over {settings.max_metric_drop:.0%} below the accepted bundle's"
        gates.append(Gate("metrics-kept", "bundle", rule, dropped))
    return gates


BUNDLE_GATES = tuple(gate.name for gate in bundle_gates(AcceptanceSettings(baseline="any")))
