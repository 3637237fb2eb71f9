import json
from pathlib import Path

import numpy as np
import pytest
import torch
from decoding_reference import random_paths
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors import safe_open

from eager_llm.core.errors import UserError
from eager_llm.decoding.trie import Trie, paths_digest


def walk(trie):
    """Every item's path, found by walking from the root and reading the tails."""
    frontier = [(0, ())]
    for level in range(trie.depth):
        reached = []
        for node, path in frontier:
            children, exists = trie.children(torch.tensor([node], dtype=torch.int32), level)
            assert exists.any()
            for child in children[exists].tolist():
                assert trie.level_start[level + 1] <= child < trie.level_start[level + 2]
                reached.append((child, (*path, int(trie.tokens[level][trie.label[child]]))))
        frontier = reached
    found = {}
    for node, path in frontier:
        leaf = node - trie.level_start[trie.depth]
        tail = [
            int(trie.tokens[trie.depth + step][label]) for step, label in enumerate(trie.tail[leaf])
        ]
        found[(*path, *tail)] = int(trie.leaf_item[leaf])
    return found


@given(
    st.integers(1, 40), st.integers(1, 4), st.integers(2, 5), st.integers(0, 10**6), st.booleans()
)
@hypothesis_settings(max_examples=150, deadline=None)
def test_the_trie_walks_to_every_item_and_nowhere_else(items, levels, labels, seed, scattered):
    paths = random_paths(np.random.default_rng(seed), items, levels, labels)
    if scattered:  # tokens of a level with gaps between them
        paths = paths * 7
    trie = Trie.build(paths)
    assert walk(trie) == {tuple(path): row for row, path in enumerate(paths.tolist())}
    for level, tokens in enumerate(trie.tokens):
        assert tokens.tolist() == sorted(set(paths[:, level].tolist()))
        assert torch.arange(100_000)[trie.rows[level]].tolist() == tokens.tolist()


def test_paths_too_long_for_one_key_are_sorted_as_well():
    rng = np.random.default_rng(0)
    paths = random_paths(rng, 500, 9, 200)
    assert walk(Trie.build(paths)) == {tuple(path): row for row, path in enumerate(paths.tolist())}


def test_nodes_end_where_paths_stop_branching():
    rng = np.random.default_rng(0)
    first = np.stack([np.arange(100) // 10, np.arange(100) % 10], axis=1)
    trie = Trie.build(
        np.concatenate([first, rng.permutation(first), rng.permutation(first)], axis=1)
    )
    assert (trie.levels, trie.depth, trie.tail.shape) == (6, 2, (100, 4))
    assert trie.nodes == 1 + 10 + 100


def test_memory_is_in_proportion_to_the_nodes():
    def bytes_a_node(items):
        rows = np.arange(items)
        paths = np.stack([rows // 400, rows // 20 % 20, rows % 20 + 5000], axis=1)
        return (trie := Trie.build(paths)).bytes / trie.nodes

    assert bytes_a_node(40_000) == pytest.approx(bytes_a_node(4_000), rel=0.05)
    assert bytes_a_node(40_000) < 10


def test_a_saved_trie_comes_back_and_is_mapped_not_read(tmp_path):
    paths = random_paths(np.random.default_rng(1), 50, 3, 6)
    trie = Trie.build(paths)
    trie.save(tmp_path / "trie.safetensors")
    loaded = Trie.load(tmp_path / "trie.safetensors")
    assert walk(loaded) == walk(trie)
    assert (loaded.digest, loaded.widest) == (paths_digest(paths), trie.widest)
    assert "trie.safetensors" in Path("/proc/self/maps").read_text(), (
        "the file is not mapped into memory"
    )


def test_a_file_that_is_no_trie_is_refused(tmp_path):
    path = tmp_path / "trie.safetensors"
    with pytest.raises(UserError, match=r"trie.safetensors: not readable as a trie"):
        Trie.load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="not readable as a trie"):
        Trie.load(path)
    trie = Trie.build(random_paths(np.random.default_rng(1), 5, 2, 3))
    trie.save(path)
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["eager_llm_trie"])
    trie._metadata = {**metadata, "schema_version": 9}
    trie.save(path)
    with pytest.raises(UserError, match="trie version 9; expected 1"):
        Trie.load(path)
