"""Items by their words: which texts speak of the same brand, line or part, without a model."""

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, hstack

from eager_llm.data.tables import TEXT_COLUMNS


def item_tfidf(items: pd.DataFrame) -> csr_matrix | None:
    """Return the words of each item, so that the product of two rows is their items' similarity.

    That is the TF-IDF cosine of each field, averaged over the fields; an empty field is similar to
    nothing. Words that only one item has are left out.

    Args:
        items: with the text columns of an item table.

    Returns:
        Sparse float32 [items, words], rows of length 1 at most; None where no two items share a
        word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    fields = []
    for name in TEXT_COLUMNS:
        # Anonymous attributes such as `attribute-12` are one word each.
        vectorizer = TfidfVectorizer(
            sublinear_tf=True,
            min_df=2,
            token_pattern=r"[\w-]+",
            dtype=np.float32,
        )
        try:
            fields.append(vectorizer.fit_transform(items[name]))
        except ValueError:  # no two items share a word of this field
            continue
    if not fields:
        return None
    return (hstack(fields) / np.sqrt(len(TEXT_COLUMNS))).tocsr()
