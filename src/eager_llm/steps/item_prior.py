"""The item prior of a run."""

import pandas as pd

from eager_llm.evaluation.evaluate import training_histories
from eager_llm.index.item_index import ItemIndex
from eager_llm.item_prior.build import build_item_prior
from eager_llm.item_prior.table import ItemPriorTable
from eager_llm.item_prior.tfidf import item_tfidf
from eager_llm.settings import Settings
from eager_llm.steps.embedding import item_rows


def fit_item_prior(
    examples: pd.DataFrame, items: pd.DataFrame, index: ItemIndex, settings: Settings
) -> ItemPriorTable:
    """Build the item prior from the sources of the index.

    Args:
        examples: behaviour is read from the training split alone.
        items: the catalogue; the semantic source compares its texts.
    """
    train = item_rows(training_histories(examples), index.rows)
    texts = None
    if "semantic" in settings.index.sources:
        in_index_order = items.set_index("item_id").loc[index.item_ids]
        texts = item_tfidf(in_index_order)
    has_behaviour = "behaviour" in settings.index.sources
    return build_item_prior(train, len(index.item_ids), texts, settings.item_prior, has_behaviour)
