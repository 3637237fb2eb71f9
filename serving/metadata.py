"""What a bundle says of itself and of its items, as the API tells it."""

from typing import Any

import numpy as np
import pandas as pd

from eager_llm.bundle.bundle import Bundle
from serving import schemas
from serving.answers import path_of

FREQUENT = 50


def bundle_facts(bundle: Bundle) -> schemas.BundleFacts:
    """Return what a bundle is."""
    recommender = bundle.recommender
    index = recommender.index
    return schemas.BundleFacts(
        version=bundle.version,
        schema_version=bundle.manifest["schema_version"],
        items=len(index.item_ids),
        index_version=index.version,
        sources={name: levels.stop - levels.start for name, levels in index.levels_of.items()},
        parameters=sum(table.numel() for table in recommender.model.parameters()),
        beams=recommender.settings.beams,
        max_history=recommender.max_history,
        device=str(recommender.model.device),
        data=plain(bundle.manifest["data"]),
        metrics=plain(bundle.metrics),
        columns=[_column(name, bundle.items[name]) for name in bundle.items.columns],
    )


def item_facts(bundle: Bundle, item_id: str) -> schemas.ItemFacts:
    """Return what a bundle knows of an item."""
    row = bundle.items.loc[item_id]
    attributes = {str(name): plain(value) for name, value in row.items()}
    return schemas.ItemFacts(
        item_id=item_id,
        title=bundle.title(item_id),
        attributes=attributes,
        path=path_of(bundle, item_id),
    )


def plain(value: Any) -> Any:
    """Return a value as JSON has it: what is not there, or no number, is null."""
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    if (
        value is None
        or value is pd.NaT
        or value is pd.NA
        or (isinstance(value, float) and not np.isfinite(value))
    ):
        return None
    return value if isinstance(value, (str, bool, int, float)) else str(value)


def _column(name: str, cells: pd.Series) -> schemas.ColumnFacts:
    if pd.api.types.is_bool_dtype(cells):
        return schemas.ColumnFacts(name=name, kind="flag")
    if pd.api.types.is_numeric_dtype(cells):
        least, most = plain(cells.min()), plain(cells.max())
        return schemas.ColumnFacts(name=name, kind="number", least=least, most=most)
    texts = cells.dropna().astype(str)
    labels = texts.str.split(",").explode().str.strip() if name == "categories" else texts
    counts = labels[labels != ""].value_counts()
    # A column whose values are nearly all its own, such as titles, has no frequent ones.
    frequent = counts[counts > 1].index[:FREQUENT].tolist()
    return schemas.ColumnFacts(name=name, kind="text", values=frequent)
