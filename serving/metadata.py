"""What the API tells of the service, its bundles, and their items."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from eager_llm.bundle.bundle import Bundle
from eager_llm.decoding.inference_weights import PackedLinear
from serving.explanations import index_path
from serving.schemas.metadata import BundleMetadata, ColumnMetadata, Info, ItemMetadata
from serving.settings import ServiceSettings

FREQUENT_VALUES = 50


def service_info(bundles: Mapping[str, Bundle], has_users: bool, settings: ServiceSettings) -> Info:
    """Return what `GET /info` answers. It reads every column of the catalogue: call it once.

    Args:
        bundles: "first", and "second" where there are two.
    """
    metadata = {name: bundle_metadata(bundle) for name, bundle in bundles.items()}
    return Info(
        first=metadata["first"],
        second=metadata.get("second"),
        users=has_users,
        describe=settings.describe,
        deadline_ms=settings.deadline_ms,
    )


def bundle_metadata(bundle: Bundle) -> BundleMetadata:
    """Return the metadata of a bundle, with the values of its columns."""
    recommender = bundle.recommender
    index = recommender.index
    levels_by_source: dict[str, int] = {}
    for source, levels in index.levels_of.items():
        levels_by_source[source] = levels.stop - levels.start
    columns = [_column_metadata(name, bundle.items[name]) for name in bundle.items.columns]
    return BundleMetadata(
        version=bundle.version,
        schema_version=bundle.manifest["schema_version"],
        items=len(index.item_ids),
        index_version=index.version,
        sources=levels_by_source,
        parameters=parameter_count(recommender.model),
        beams=recommender.settings.beams,
        max_history=recommender.max_history,
        device=str(recommender.model.device),
        data=to_jsonable(bundle.manifest["data"]),
        metrics=to_jsonable(bundle.metrics),
        columns=columns,
    )


def item_metadata(bundle: Bundle, item_id: str) -> ItemMetadata:
    """Return the catalogue's row of an item, and its path through the index."""
    row = bundle.items.loc[item_id]
    attributes = {str(name): to_jsonable(value) for name, value in row.items()}
    return ItemMetadata(
        item_id=item_id,
        title=bundle.title(item_id),
        attributes=attributes,
        path=index_path(bundle, item_id),
    )


def parameter_count(model: Any) -> int:
    """Return how many parameters a model for inference has; tied weights count once.

    torch does not list the weights that are packed for the processor, so they are counted here. An
    adapter that is merged into the weights adds none; the item prior is a table, not parameters.
    """
    count = sum(parameter.numel() for parameter in model.parameters())
    for module in model.modules():
        if isinstance(module, PackedLinear):
            count += module.in_features * module.out_features
    return count


def to_jsonable(value: Any) -> Any:
    """Return a value as JSON has it.

    Missing values, NaN and infinity become null; what JSON has no form for, such as a time, becomes
    text.
    """
    if isinstance(value, dict):
        return {str(name): to_jsonable(member) for name, member in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [to_jsonable(member) for member in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NaT or value is pd.NA:
        return None
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, str | bool | int | float):
        return value
    return str(value)


def _column_metadata(name: str, cells: pd.Series) -> ColumnMetadata:
    """Return the kind of a column, with its range or its most frequent values."""
    if pd.api.types.is_bool_dtype(cells):
        return ColumnMetadata(name=name, kind="flag")
    if pd.api.types.is_numeric_dtype(cells):
        return ColumnMetadata(
            name=name,
            kind="number",
            least=to_jsonable(cells.min()),
            most=to_jsonable(cells.max()),
        )
    labels = cells.dropna().astype(str)
    if name == "categories":
        labels = labels.str.split(",").explode().str.strip()
    counts = labels[labels != ""].value_counts()
    # A column whose values are nearly all unique, such as titles, has no frequent ones.
    frequent = counts[counts > 1].index[:FREQUENT_VALUES]
    return ColumnMetadata(name=name, kind="text", values=frequent.tolist())
