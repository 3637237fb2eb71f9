"""Semantic embedding: what the text of an item says."""

from typing import Any

import numpy as np
import pandas as pd

from eager_llm.core.errors import UserError
from eager_llm.core.progress import progress
from eager_llm.data.tables import TEXT_COLUMNS, item_texts
from eager_llm.encoders.normalise import unit_rows
from eager_llm.settings import SemanticSettings

# Fields that a Hugging Face encoder reads, a pass each.
ENCODED_FIELDS = ("title", "description", "categories")
MAX_TOKENS = 256
# Words and pairs of words that TF-IDF counts.
MAX_FEATURES = 50_000


def semantic_embedding(
    items: pd.DataFrame,
    settings: SemanticSettings,
    seed: int,
    device: str = "cpu",
) -> np.ndarray:
    """Return the semantic embedding, float32 [items, dim], rows of length 1.

    Args:
        items: with the text columns of an item table.
        seed: of the truncated SVD.
        device: that a Hugging Face encoder works on.

    Raises:
        UserError: no item has text, or the encoder cannot be loaded.
    """
    if not any(item_texts(items)) and not items["description"].any():
        raise UserError(
            "no item has any text, so there is nothing to embed; "
            "use only the other source: index.sources=behaviour"
        )
    if settings.encoder == "tfidf-svd":
        embedding = _tfidf_svd(items, settings.dim, seed)
    else:
        embedding = _hugging_face(items, settings, device)
    return unit_rows(embedding, "semantic")


def _tfidf_svd(
    items: pd.DataFrame,
    dim: int,
    seed: int,
) -> np.ndarray:
    """Latent semantic analysis over words and word pairs of all fields, float [items, rank]."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = items[list(TEXT_COLUMNS)].itertuples(index=False)
    texts = [" ".join(row) for row in rows]
    # Anonymous attributes such as `attribute-12` are one word each.
    vectorizer = TfidfVectorizer(
        sublinear_tf=True,
        ngram_range=(1, 2),
        max_features=MAX_FEATURES,
        token_pattern=r"[\w-]+",
    )
    weights = vectorizer.fit_transform(texts)
    rank = min(dim, weights.shape[1] - 1, len(items) - 1)
    if rank < 1:
        return weights.toarray()
    return TruncatedSVD(rank, random_state=seed).fit_transform(weights)


def _hugging_face(
    items: pd.DataFrame,
    settings: SemanticSettings,
    device: str,
) -> np.ndarray:
    """Return mean-pooled last hidden states, float [items, dim], averaged over fields with text."""
    tokenizer, model = _load_encoder(settings.encoder, device)
    total = np.zeros((len(items), model.config.hidden_size), dtype=np.float64)
    fields = np.zeros((len(items), 1))
    for name in ENCODED_FIELDS:
        rows = _longest_first(items[name])
        starts = range(0, len(rows), settings.batch)
        for start in progress(starts, desc=f"semantic encoder: {name}", unit="batch"):
            batch = rows[start : start + settings.batch]
            texts = items[name].iloc[batch].tolist()
            total[batch] += _mean_hidden_states(tokenizer, model, texts, device)
            fields[batch] += 1
    return total / np.maximum(fields, 1)


def _load_encoder(name: str, device: str) -> tuple[Any, Any]:
    """Return the tokenizer and the model of an encoder."""
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModel.from_pretrained(name).to(device).eval()
    except (OSError, ValueError) as error:
        raise UserError(f"semantic.encoder = {name!r} cannot be loaded: {error}") from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # Causal encoders only see what is left of a token: padding must stand on the right.
    tokenizer.padding_side = "right"
    return tokenizer, model


def _longest_first(texts: pd.Series) -> np.ndarray:
    """Return the rows that have text, longest first, int64 [rows].

    Texts of like lengths share a batch, and a batch that does not fit fails at once.
    """
    rows = np.flatnonzero(texts.to_numpy() != "")
    lengths = texts.str.len().to_numpy()[rows]
    return rows[np.argsort(-lengths, kind="stable")]


def _mean_hidden_states(
    tokenizer: Any,
    model: Any,
    texts: list[str],
    device: str,
) -> np.ndarray:
    """Return the mean of the last hidden states of each text, float32 [texts, dim]."""
    import torch

    tokens = tokenizer(
        texts,
        padding=True,
        truncation=True,
        max_length=MAX_TOKENS,
        return_tensors="pt",
    ).to(device)
    with torch.inference_mode():
        hidden = model(**tokens).last_hidden_state.float()
    mask = tokens["attention_mask"][..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    return mean.cpu().numpy()
