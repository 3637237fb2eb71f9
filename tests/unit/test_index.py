from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import ray
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from eager_llm.errors import UserError
from eager_llm.index.build import build_index, start_ray
from eager_llm.index.item_index import ItemIndex, letters
from eager_llm.index.kmeans import assign_with_capacity, balanced_kmeans
from eager_llm.index.tree import build_tree, tree_height
from eager_llm.settings import IndexSettings


@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 5), st.integers(0, 99))
@hypothesis_settings(max_examples=60, deadline=None)
def test_assignment_keeps_the_capacity_and_is_stable(rows, columns, spare, seed):
    capacity = -(-rows // columns) + spare
    cost = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))
    labels = assign_with_capacity(cost, capacity)
    size = torch.bincount(labels, minlength=columns)
    assert size.max() <= capacity
    for row in range(rows):
        for column in range(columns):
            if cost[row, column] < cost[row, labels[row]]:  # a better column must be full of cheaper rows
                inside = cost[labels == column, column]
                assert size[column] == capacity
                assert inside.max() <= cost[row, column]


def test_assignment_refuses_what_cannot_fit():
    with pytest.raises(ValueError, match="do not fit"):
        assign_with_capacity(torch.rand(5, 2), 2)


def test_clusters_that_are_far_apart_are_found():
    generator = torch.Generator().manual_seed(0)
    points = torch.cat([torch.randn(10, 4, generator=generator) + 50 * n for n in range(4)])
    labels, centroids = balanced_kmeans(points, 4, 10, 20, generator)
    assert all(len(set(labels[10 * n : 10 * n + 10].tolist())) == 1 for n in range(4))
    assert centroids.shape == (4, 4)


@pytest.mark.parametrize(("items", "height"), [(1, 1), (3, 1), (4, 1), (5, 2), (16, 2), (17, 3), (64, 3), (65, 4)])
def test_height_is_the_least_with_room_for_all(items, height):
    assert tree_height(items, 4) == height
    points = np.random.default_rng(0).normal(size=(items, 3)).astype(np.float32)
    tree = build_tree(points, 4, 5, 0)
    assert tree.codes.shape == (items, height)
    assert len(np.unique(tree.codes, axis=0)) == items


def test_identical_items_still_get_paths_of_their_own():
    tree = build_tree(np.ones((30, 3), dtype=np.float32), 4, 5, 0)
    assert len(np.unique(tree.codes, axis=0)) == 30


@given(st.integers(1, 200), st.integers(2, 9), st.integers(0, 9))
@hypothesis_settings(max_examples=40, deadline=None)
def test_no_tree_ever_collides_or_overflows(items, branching, seed):
    points = np.random.default_rng(seed).normal(size=(items, 2)).round(1).astype(np.float32)
    codes = build_tree(points, branching, 3, seed).codes
    assert len(np.unique(codes, axis=0)) == items
    assert np.bincount(codes[:, 0]).max() <= -(-items // branching) or items <= branching


def small_embeddings(items=150):
    rng = np.random.default_rng(1)
    return {name: rng.normal(size=(items, 6)).astype(np.float32) for name in ("semantic", "behaviour")}


def test_ray_builds_the_same_index_as_this_process():
    ids = [str(n) for n in range(150)]
    settings = IndexSettings(branching=8, iterations=5)
    here = build_index(ids, small_embeddings(), replace(settings, workers=0), 0)
    assert here.sources == ("semantic",) * 3 + ("behaviour",) * 3
    start_ray(2)
    try:
        for workers in (1, 2):
            there = build_index(ids, small_embeddings(), replace(settings, workers=workers), 0)
            np.testing.assert_array_equal(there.codes, here.codes)
    finally:
        ray.shutdown()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_embedding_that_is_not_finite_is_named(value):
    embeddings = small_embeddings(5)
    embeddings["behaviour"][3, 1] = value
    with pytest.raises(UserError, match="behaviour embedding of item 'd'"):
        build_index(list("abcde"), embeddings, IndexSettings(branching=8, workers=0), 0)


def test_tokens_lead_back_to_items_and_survive_the_disk(tmp_path):
    ids = [f"item {n}" for n in range(150)]
    index = build_index(ids, small_embeddings(), IndexSettings(branching=8, workers=0, iterations=5), 0)
    index.save(tmp_path / "index.parquet")
    loaded = ItemIndex.load(tmp_path / "index.parquet")
    assert [loaded.item(index.tokens(item)) for item in ids] == ids
    assert loaded.item(["<a_0>"]) is None
    assert loaded.sources == index.sources
    for mine, theirs in zip(index.centroids, loaded.centroids, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_an_index_that_contradicts_itself_is_refused(tmp_path):
    with pytest.raises(UserError, match="share a path"):
        ItemIndex(["a", "b"], np.zeros((2, 1), dtype=int), ("semantic",), 4)
    with pytest.raises(UserError, match="names an item twice"):
        ItemIndex(["a", "a"], np.array([[0], [1]]), ("semantic",), 4)
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(UserError, match="item index version None"):
        ItemIndex.load(tmp_path / "other.parquet")


def test_levels_are_named_by_letters():
    assert [letters(n) for n in (0, 3, 25, 26, 27)] == ["a", "d", "z", "aa", "ab"]
