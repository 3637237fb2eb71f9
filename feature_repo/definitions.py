"""Feast definitions: users' histories and activity, the item catalogue, the item index."""

import json
import os
from datetime import timedelta
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.data_source import DataSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Float64, Int64, String

# The configuration of the offline store, and the folder of its tables where they are files.
OFFLINE = json.loads(os.environ["EAGER_LLM_FEAST_OFFLINE"])
TABLES = os.environ["EAGER_LLM_FEATURES"]
FOR_EVER = timedelta(0)
# Counts of what somebody did lose their meaning; a history does not.
YEAR = timedelta(days=365)
QUARTER = timedelta(days=90)

# The moments are microseconds since 1970, one an item.
HISTORY = [
    Field(name="items", dtype=Array(String)),
    Field(name="moments", dtype=Array(Int64)),
]

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
event_type = Entity(name="event_type", join_keys=["event_type"], value_type=ValueType.STRING)
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)


def table(name: str) -> DataSource:
    """Name a published table as a source: in the warehouse, or a Parquet file."""
    if OFFLINE["type"] == "postgres":
        from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
            PostgreSQLSource,
        )

        return PostgreSQLSource(name=name, table=name, timestamp_field="event_timestamp")
    return FileSource(name=name, path=f"{TABLES}/{name}.parquet", timestamp_field="event_timestamp")


user_history = FeatureView(
    name="user_history",
    description="The user's last items, oldest first, including the event of the row's moment.",
    entities=[user],
    ttl=FOR_EVER,
    schema=HISTORY,
    # The published log is the truth; the API pushes online what has happened since.
    source=table("user_history"),
)

user_type_history = FeatureView(
    name="user_type_history",
    description="The user's last items by events of one type, oldest first.",
    entities=[user, event_type],
    ttl=FOR_EVER,
    schema=HISTORY,
    source=table("user_type_history"),
)

user_activity = FeatureView(
    name="user_activity",
    description=(
        "Events of the user so far, distinct items among them, and days since the one before."
    ),
    entities=[user],
    ttl=YEAR,
    schema=[
        Field(name="events", dtype=Int64),
        Field(name="distinct_items", dtype=Int64),
        Field(name="pause_days", dtype=Float64),
    ],
    source=table("user_activity"),
)

item_activity = FeatureView(
    name="item_activity",
    description="Events of the item so far, and in the 30 days up to the row's moment.",
    entities=[item],
    ttl=QUARTER,
    schema=[
        Field(name="events", dtype=Int64),
        Field(name="events_30_days", dtype=Int64),
    ],
    source=table("item_activity"),
)

item_catalogue = FeatureView(
    name="item_catalogue",
    description="What the shop says about an item.",
    entities=[item],
    ttl=FOR_EVER,
    schema=[
        Field(name="title", dtype=String),
        Field(name="description", dtype=String),
        Field(name="brand", dtype=String),
        Field(name="categories", dtype=String),
    ],
    source=table("item_catalogue"),
)

item_index = FeatureView(
    name="item_index",
    description="The tokens of an item in the item index in use at the row's moment.",
    entities=[item],
    ttl=FOR_EVER,
    schema=[
        Field(name="tokens", dtype=Array(String)),
        Field(name="index_version", dtype=String),
    ],
    source=table("item_index"),
)

request = RequestSource(name="request", schema=[Field(name="asked_at", dtype=Int64)])


@on_demand_feature_view(
    sources=[user_history, request],
    schema=[
        Field(name="history_length", dtype=Int64),
        Field(name="recency_days", dtype=Float64),
        Field(name="repeat_share", dtype=Float64),
    ],
    mode="python",
    description=(
        "How long a history is, how old its last event is at the request's moment (microseconds "
        "since 1970), and the share of its items that it holds more than once; "
        "no age for a user nobody has seen."
    ),
)
def user_request(inputs: dict[str, Any]) -> dict[str, Any]:
    """Compute the features of every row at once; the same code offline and online.

    Args:
        inputs: of each row `items` and `moments` (None for an unknown user), and `asked_at`.
    """
    lengths: list[int] = []
    ages: list[float | None] = []
    repeats: list[float] = []
    rows = zip(inputs["items"], inputs["moments"], inputs["asked_at"], strict=True)
    for items, moments, asked_at in rows:
        length = 0 if items is None else len(items)
        lengths.append(length)
        age = None
        if moments is not None and len(moments):
            age = (asked_at - moments[-1]) / 86400e6
        ages.append(age)
        repeat_share = 0.0
        if length:
            repeat_share = 1 - len(set(items)) / length
        repeats.append(repeat_share)
    return {"history_length": lengths, "recency_days": ages, "repeat_share": repeats}


# Feature services of model versions, `recommender_VERSION`, are made when an item index is published.
recommender = FeatureService(name="recommender", features=[user_history])
items = FeatureService(name="items", features=[item_catalogue, item_index, item_activity])
