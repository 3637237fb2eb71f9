"""Feast definitions: a user's history as of any moment, the item catalogue, the item index."""

import os
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, String

TABLES = os.environ["EAGER_LLM_FEATURES"]
FOR_EVER = timedelta(0)

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
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
    source=table("user_history"),
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
items = FeatureService(name="items", features=[item_catalogue, item_index])
