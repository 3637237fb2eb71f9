"""The embeddings of the catalogue by each source of the item index.

Shapes: I items, D dimensions.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from eager_llm.core.files import whole_folder
from eager_llm.data.tables import Tables
from eager_llm.encoders.behaviour import behaviour_embedding
from eager_llm.encoders.semantic import semantic_embedding
from eager_llm.evaluation.evaluate import training_histories
from eager_llm.settings import Settings


def embed(
    tables: Tables, examples: pd.DataFrame, settings: Settings, device: str
) -> dict[str, np.ndarray]:
    """Encode the items by the sources of the index.

    Args:
        tables: the catalogue; its order is the order of the rows.
        examples: behaviour is read from the training split alone.
        device: where the encoders run.

    Returns:
        Source -> float32 [I, D].
    """
    embeddings: dict[str, np.ndarray] = {}
    if "semantic" in settings.index.sources:
        embeddings["semantic"] = semantic_embedding(
            tables.items,
            settings.semantic,
            settings.seed,
            device,
        )
    if "behaviour" in settings.index.sources:
        rows = {item: row for row, item in enumerate(tables.items["item_id"])}
        train = item_rows(training_histories(examples), rows)
        embeddings["behaviour"] = behaviour_embedding(
            train,
            len(rows),
            settings.behaviour,
            settings.seed,
            device,
        )
    return embeddings


def item_rows(histories: list[list[str]], rows: dict[str, int]) -> list[list[int]]:
    """Return histories as rows of the items instead of their ids."""
    return [list(map(rows.__getitem__, history)) for history in histories]


def save_embeddings(embeddings: dict[str, np.ndarray], folder: Path) -> dict[str, Path]:
    """Write one .npy for each source, all or none.

    Args:
        embeddings: source -> float32 [I, D].

    Returns:
        Source -> path.
    """
    paths: dict[str, Path] = {}
    with whole_folder(folder) as draft:
        for source, embedding in embeddings.items():
            np.save(draft / f"{source}.npy", embedding, allow_pickle=False)
            paths[source] = folder / f"{source}.npy"
    return paths
