"""The inputs of `tune` and `evaluate` as the steps before them leave them."""

import numpy as np
from conftest import make_small


def write_inputs(shop, examples, settings, folder):
    """Write tables, examples, item index and embeddings; return their paths."""
    made = make_small(shop, settings)
    paths = {name: folder / name for name in ("tables", "examples", "item_index", "embeddings")}
    shop.save(paths["tables"])
    examples.to_parquet(paths["examples"])
    made.index.save(paths["item_index"])
    paths["embeddings"].mkdir()
    for source, embedding in made.embeddings.items():
        np.save(paths["embeddings"] / f"{source}.npy", embedding)
    return paths
