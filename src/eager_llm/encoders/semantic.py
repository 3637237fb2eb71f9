"""Semantic embedding: what the text of an item says."""

import numpy as np
import pandas as pd

from eager_llm.core.errors import UserError
from eager_llm.core.progress import progress
from eager_llm.data.tables import TEXT_COLUMNS, item_texts
from eager_llm.encoders.normalise import unit_rows
from eager_llm.settings import SemanticSettings


def semantic_embedding(
    items: pd.DataFrame, settings: SemanticSettings, seed: int, device: str = "cpu"
) -> np.ndarray:
    """Return the semantic embedding, float32 [items, dim], rows of length 1.

    Raises:
        UserError: no item has text, or the encoder cannot be loaded.
    """
    if not any(item_texts(items)) and not items["description"].any():
        raise UserError(
            "no item has any text, so there is nothing to embed; use only the other source: index.sources=behaviour"
        )
    if settings.encoder == "tfidf-svd":
        embedding = _tfidf_svd(items, settings.dim, seed)
    else:
        embedding = _hugging_face(items, settings, device)
    return unit_rows(embedding, "semantic")


def _tfidf_svd(items: pd.DataFrame, dim: int, seed: int) -> np.ndarray:
    """Latent semantic analysis over words and word pairs of all fields."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [" ".join(row) for row in items[list(TEXT_COLUMNS)].itertuples(index=False)]
    # Anonymous attributes such as `attribute-12` are one word each.
    vectorizer = TfidfVectorizer(
        sublinear_tf=True, ngram_range=(1, 2), max_features=50_000, token_pattern=r"[\w-]+"
    )
    weights = vectorizer.fit_transform(texts)
    rank = min(dim, weights.shape[1] - 1, len(items) - 1)
    if rank < 1:
        return weights.toarray()
    return TruncatedSVD(rank, random_state=seed).fit_transform(weights)


def _hugging_face(items: pd.DataFrame, settings: SemanticSettings, device: str) -> np.ndarray:
    """Mean-pooled last hidden states, one pass a field, averaged over the fields that have text."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(settings.encoder)
        model = AutoModel.from_pretrained(settings.encoder).to(device).eval()
    except (OSError, ValueError) as error:
        raise UserError(
            f"semantic.encoder = {settings.encoder!r} cannot be loaded: {error}"
        ) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # Causal encoders only see what is left of a token: padding must stand on the right.
    tokenizer.padding_side = "right"
    total = np.zeros((len(items), model.config.hidden_size), dtype=np.float64)
    fields = np.zeros((len(items), 1))
    for name in ("title", "description", "categories"):
        rows = np.flatnonzero(items[name].to_numpy() != "")
        # Longest first: alike lengths share a batch, and a batch that does not fit fails at once.
        rows = rows[np.argsort(-items[name].str.len().to_numpy()[rows], kind="stable")]
        for start in progress(
            range(0, len(rows), settings.batch), desc=f"semantic encoder: {name}", unit="batch"
        ):
            batch = rows[start : start + settings.batch]
            tokens = tokenizer(
                items[name].iloc[batch].tolist(),
                padding=True,
                truncation=True,
                max_length=256,
                return_tensors="pt",
            ).to(device)
            with torch.inference_mode():
                hidden = model(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"][..., None]
            total[batch] += ((hidden * mask).sum(1) / mask.sum(1)).cpu().numpy()
            fields[batch] += 1
    return total / np.maximum(fields, 1)
