"""The tokens of an item index in a language model: added, and given their first embeddings."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from eager_llm.index.item_index import ItemIndex


def add_index_tokens(
    model: Any,
    tokenizer: Any,
    index: ItemIndex,
) -> None:
    """Add the tokens of the index to a pretrained model and its tokenizer."""
    tokenizer.add_tokens(index.vocabulary)
    embeddings = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(max(len(tokenizer), embeddings))


@torch.no_grad()
def initialize_from_centroids(
    model: Any,
    tokenizer: Any,
    index: ItemIndex,
) -> None:
    """Set the embeddings of the index tokens, in and out, to their centroids in the item index.

    A level's centroids are turned by their principal axes into the model's width. They are scaled
    to the mean and the spread that the other embeddings have. So tokens that are close in the
    source start close.
    """
    vocabulary = [tokenizer.convert_tokens_to_ids(token) for token in index.vocabulary]
    ids = torch.tensor(vocabulary)
    token_ids = ids.view(index.levels, index.branching)
    for matrix in _embedding_matrices(model):
        is_text = torch.ones(len(matrix), dtype=torch.bool)
        is_text[ids] = False
        text_embeddings = matrix[is_text].float()
        mean = text_embeddings.mean(0)
        spread = text_embeddings.std()
        for level_ids, centroids in zip(token_ids, index.centroids, strict=True):
            points = torch.from_numpy(np.asarray(centroids, dtype=np.float32))
            projected = _project(points, matrix.shape[1])
            scale = projected.std().clamp_min(1e-9)
            embeddings = mean + projected * spread / scale
            rows = level_ids[: len(points)]
            matrix[rows] = embeddings.to(matrix.dtype)


def _embedding_matrices(model: Any) -> list[torch.Tensor]:
    """Return the weights of the input and output embeddings, once where they are tied."""
    matrices = [model.get_input_embeddings().weight]
    output = model.get_output_embeddings().weight
    if output is not matrices[0]:
        matrices.append(output)
    return matrices


def _project(points: torch.Tensor, width: int) -> torch.Tensor:
    """Turn points [n, dim] by their principal axes into [n, width]; zeros where it is wider."""
    centred = points - points.mean(0)
    decomposition = torch.linalg.svd(centred, full_matrices=False)
    axes = decomposition.Vh[:width]
    padding = width - len(axes)
    return functional.pad(centred @ axes.T, (0, padding))
