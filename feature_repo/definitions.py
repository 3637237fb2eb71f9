"""Feast definitions: a user's history as of any moment, the item catalogue, the item index."""

import os
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.types import Array, Float64, Int64, String

TABLES = os.environ["EAGER_LLM_FEATURES"]
FOR_EVER = timedelta(0)
# Counts of what somebody did lose their meaning; a history does not.
YEAR, QUARTER = timedelta(days=365), timedelta(days=90)

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
event_type = Entity(name="event_type", join_keys=["event_type"], value_type=ValueType.STRING)
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)


def table(name: str) -> FileSource:
    """Name a published Parquet table as a source."""
    return FileSource(name=name, path=f"{TABLES}/{name}.parquet", timestamp_field="event_timestamp")


user_history = FeatureView(
    name="user_history",
    description="The user's last items, oldest first, including the event of the row's moment.",
    entities=[user],
    ttl=FOR_EVER,
    schema=[Field(name="items", dtype=Array(String))],
    # The batch table is the truth; the API pushes what has happened since.
    source=PushSource(name="user_history_push", batch_source=table("user_history")),
)

user_type_history = FeatureView(
    name="user_type_history",
    description="The user's last items by events of one type, oldest first.",
    entities=[user, event_type],
    ttl=FOR_EVER,
    schema=[Field(name="items", dtype=Array(String))],
    source=table("user_type_history"),
)

user_activity = FeatureView(
    name="user_activity",
    description="Events of the user so far, distinct items among them, and days since the one before.",
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
    schema=[Field(name="events", dtype=Int64), Field(name="events_30_days", dtype=Int64)],
    source=table("item_activity"),
)

item_catalogue = FeatureView(
    name="item_catalogue",
    description="What the shop says about an item.",
    entities=[item],
    ttl=FOR_EVER,
    schema=[Field(name=name, dtype=String) for name in ("title", "description", "brand", "categories")],
    source=table("item_catalogue"),
)

item_index = FeatureView(
    name="item_index",
    description="The tokens of an item in the current item index.",
    entities=[item],
    ttl=FOR_EVER,
    schema=[Field(name="tokens", dtype=Array(String))],
    source=table("item_index"),
)

recommender = FeatureService(name="recommender", features=[user_history])
items = FeatureService(name="items", features=[item_catalogue, item_index, item_activity])
