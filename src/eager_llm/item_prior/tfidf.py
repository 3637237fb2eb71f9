"""Items by their words: what tells which texts speak of the same brand, line or part, without a model."""

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, hstack

from eager_llm.data.tables import TEXT_COLUMNS


def item_tfidf(items: pd.DataFrame) -> csr_matrix | None:
    """Return the words of each item, field by field, so that the product of two rows is how alike the items are.

    That is the TF-IDF cosine of each field, averaged over the fields; one that is empty speaks for
    nothing. Words that only one item has are left out.

    Returns:
        Sparse float32 [items, words], rows of length 1 at most; None where no two items share a word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    fields = []
    for name in TEXT_COLUMNS:
        try:
            # Anonymous attributes such as `attribute-12` are one word each.
            vectorizer = TfidfVectorizer(
                sublinear_tf=True, min_df=2, token_pattern=r"[\w-]+", dtype=np.float32
            )
            fields.append(vectorizer.fit_transform(items[name]))
        except ValueError:  # no word is left
            continue
    return (hstack(fields) / np.sqrt(len(TEXT_COLUMNS))).tocsr() if fields else None
