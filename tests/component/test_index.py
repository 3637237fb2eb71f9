import os
import signal
from collections import Counter

import fsspec
import numpy as np
import pandas as pd
import pytest
import ray
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from eager_llm.cluster.local_ray import start_ray
from eager_llm.core.errors import UserError
from eager_llm.index import shards
from eager_llm.index.build import build_index
from eager_llm.index.capacity import assign_columns, balance_prices, capacity_of
from eager_llm.index.item_index import ItemIndex
from eager_llm.index.paths import level_letters
from eager_llm.index.ray_pool import LocalPool, RayPool
from eager_llm.index.shards import Shards
from eager_llm.index.tree import tree_height
from eager_llm.settings import IndexSettings

PLAIN = IndexSettings(
    sources=["semantic"], branching=4, iterations=4, full_iterations=1, restarts=1, workers=0
)


def build_one(points, seed=0, **changes):
    ids = [str(n) for n in range(len(points))]
    return build_index(
        ids, {"semantic": np.asarray(points, dtype=np.float32)}, PLAIN.replace(**changes), seed
    )


def made_up(items, dim=6, seed=1):
    return np.random.default_rng(seed).normal(size=(items, dim)).astype(np.float32)


@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 4), st.integers(0, 99))
@hypothesis_settings(max_examples=80, deadline=None)
def test_placement_keeps_every_room_and_is_stable(rows, columns, groups, seed):
    generator = torch.Generator().manual_seed(seed)
    group = torch.randint(groups, (rows,), generator=generator)
    room = torch.randint(0, 3, (groups, columns), generator=generator)
    room[:, 0] += rows  # so that all fit
    cost = torch.rand(rows, columns, generator=generator)
    labels = assign_columns(cost.clone(), room, group)
    for row in range(rows):
        inside = (group == group[row]) & (labels == labels[row])
        assert inside.sum() <= room[group[row], labels[row]]
        for column in range(columns):
            if (
                cost[row, column] < cost[row, labels[row]]
            ):  # a better column must be full of cheaper rows
                there = cost[(group == group[row]) & (labels == column), column]
                assert len(there) == room[group[row], column]
                assert (there <= cost[row, column]).all()


def test_placement_refuses_what_cannot_fit():
    with pytest.raises(ValueError, match="5 rows do not fit into room for 4"):
        assign_columns(torch.rand(5, 2), torch.full((1, 2), 2))


def test_prices_spread_points_that_all_prefer_one_cluster():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(2000, 8, generator=generator)
    scores[:, 0] -= 0.5
    prices = balance_prices(scores, torch.zeros(8), 100)
    load = torch.bincount((scores + prices).argmin(1), minlength=8)
    assert torch.bincount(scores.argmin(1), minlength=8).max() > 1000
    assert load.max() < 1.2 * capacity_of(2000, 8)


def test_clusters_that_are_far_apart_are_found():
    points = np.concatenate([made_up(10, 4) + 50 * n for n in range(4)])
    codes = build_one(points).codes
    assert all(len(set(codes[10 * n : 10 * n + 10, 0].tolist())) == 1 for n in range(4))


@pytest.mark.parametrize("builder", ["balanced", "residual", "product"])
@pytest.mark.parametrize(
    ("items", "height"),
    [(1, 1), (3, 1), (4, 1), (5, 2), (15, 2), (16, 2), (17, 3), (64, 3), (65, 4)],
)
def test_height_is_the_least_with_room_for_all(items, height, builder):
    assert tree_height(items, 4) == height
    index = build_one(made_up(items, 8), builder=builder)
    assert index.codes.shape == (items, height)
    assert np.bincount(index.codes[:, 0]).max() <= (
        -(-items // 4) if builder == "balanced" else 4 ** (height - 1)
    )


def test_no_items_are_refused():
    with pytest.raises(UserError, match="no items to index"):
        build_one(np.zeros((0, 3)))


def test_identical_items_still_get_paths_of_their_own():
    assert len(np.unique(build_one(np.ones((30, 3))).codes, axis=0)) == 30


@given(
    st.integers(1, 200),
    st.integers(2, 9),
    st.integers(0, 9),
    st.sampled_from(["balanced", "residual", "product"]),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_no_tree_ever_collides_or_overflows(items, branching, seed, builder):
    points = made_up(items, 3, seed).round(1) + 1e-3
    codes = build_one(
        points, seed, branching=branching, builder=builder
    ).codes  # collisions are refused inside
    if builder == "balanced":
        parent = np.zeros(items, dtype=int)
        for level in range(codes.shape[1]):
            share = -(-np.bincount(parent)[parent] // branching)
            parent = np.unique(parent * branching + codes[:, level], return_inverse=True)[1]
            assert (np.bincount(parent)[parent] <= share).all()


def test_errors_are_the_distances_to_the_points_of_the_paths():
    points = made_up(150)
    index = build_one(points, branching=8)
    path = np.zeros_like(points)
    for level in range(index.levels):
        path += index.centroids[level][index.codes[:, level]]
        np.testing.assert_allclose(
            index.errors[:, level], np.square(points - path).sum(1), rtol=1e-4, atol=1e-4
        )


def test_nearly_as_good_as_lloyds_iterations_without_capacities():
    from sklearn.cluster import KMeans

    points = made_up(3000, 8)
    free = KMeans(16, n_init=3, random_state=0).fit(points).inertia_ / len(points)
    index = build_one(points, branching=16, iterations=20, restarts=3)
    assert index.errors[:, 0].mean() < 1.05 * free


def test_bf16_differs_little():
    points = made_up(3000, 32)
    exact, rounded = (
        build_one(points, branching=16, precision=p).errors[:, 0].mean()
        for p in ("float32", "bf16")
    )
    assert rounded == pytest.approx(exact, rel=0.02)


def small_embeddings(items=150):
    rng = np.random.default_rng(1)
    return {
        name: rng.normal(size=(items, 6)).astype(np.float32) for name in ("semantic", "behaviour")
    }


@pytest.fixture(scope="module")
def two_workers():
    start_ray(2)
    yield
    ray.shutdown()


@pytest.fixture
def many_parts(monkeypatch):
    monkeypatch.setattr(shards, "RANGE_ROWS", 40)


def test_workers_do_not_change_the_index(two_workers, many_parts, tmp_path):
    ids = [str(n) for n in range(150)]
    settings = IndexSettings(branching=8, iterations=5)
    np.save(tmp_path / "semantic-0.npy", small_embeddings()["semantic"][:70])
    np.save(tmp_path / "semantic-1.npy", small_embeddings()["semantic"][70:])
    where = {"semantic": f"{tmp_path}/semantic-*.npy", "behaviour": small_embeddings()["behaviour"]}
    here = build_index(ids, small_embeddings(), settings.replace(workers=0), 0)
    assert here.sources == ("semantic",) * 3 + ("behaviour",) * 3
    for workers in (1, 2):
        there = build_index(ids, where, settings.replace(workers=workers), 0)
        assert there.checksum == here.checksum


def test_a_worker_killed_in_the_middle_changes_nothing(two_workers, many_parts, monkeypatch):
    """The process of an actor is killed while it works; Ray starts another, which does its part again."""
    ids, settings = (
        [str(n) for n in range(150)],
        IndexSettings(branching=8, iterations=2, full_iterations=6),
    )
    here = build_index(ids, small_embeddings(), settings.replace(workers=0), 0)
    killed = []

    def kill_one(pool, method, calls, plain=RayPool.map):
        if method == "lloyd" and len(killed) < 2:
            process = ray.get(pool.actors[0].__ray_call__.remote(lambda _: os.getpid()))
            os.kill(process, signal.SIGKILL)
            killed.append(process)
        return plain(pool, method, calls)

    monkeypatch.setattr(RayPool, "map", kill_one)
    there = build_index(ids, small_embeddings(), settings.replace(workers=2), 0)
    assert len(set(killed)) == 2
    assert there.checksum == here.checksum


@pytest.mark.parametrize(("method", "limit"), [("lloyd", 9), ("nearest", 2), ("descend", 2)])
def test_a_build_that_was_cut_off_goes_on(method, limit, many_parts, monkeypatch, tmp_path):
    ids, settings = [str(n) for n in range(150)], IndexSettings(branching=8, workers=0)
    done = Counter()

    def counted(pool, name, calls, plain=LocalPool.map):
        for call in calls:
            if name == method and done[name] == limit:
                raise KeyboardInterrupt
            done[name] += 1
            yield from plain(pool, name, [call])

    with monkeypatch.context() as patch:
        patch.setattr(LocalPool, "map", counted)
        with pytest.raises(KeyboardInterrupt):
            build_index(ids, small_embeddings(), settings, 0, tmp_path)
        before, limit = done.copy(), -1
        done.clear()
        again = build_index(ids, small_embeddings(), settings, 0, tmp_path)
    assert again.checksum == build_index(ids, small_embeddings(), settings, 0).checksum
    assert not any(tmp_path.rglob("*.npz"))
    # What was finished was not done again: whole iterations, whole parts.
    assert done["lloyd"] == 2 * 16 - before["lloyd"] // 4 * 4
    assert done["descend"] == 2 * 4 - before["descend"]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ([np.nan, 0], "NaN"),
        ([1, -np.inf], "infinite"),
        ([3e38, 3e38], "infinite"),
        ([0, 0], "zero"),
    ],
)
def test_a_vector_that_says_nothing_is_named(row, kind):
    embeddings = small_embeddings(5)
    embeddings["behaviour"][3:, :] = 0
    embeddings["behaviour"][3:, :2] = row
    with pytest.raises(
        UserError, match=rf"behaviour embedding of item 'd' \(row 3\) is {kind}; 2 such rows"
    ):
        build_index(list("abcde"), embeddings, IndexSettings(branching=8, workers=0), 0)


def test_embeddings_are_read_by_uri():
    files = fsspec.filesystem("memory")
    points = made_up(30)
    for number, part in enumerate(np.split(points, [10, 25])):
        with files.open(f"/bucket/part-{number}.npy", "wb") as handle:
            np.save(handle, part)
    found = Shards.open("memory://bucket/part-*.npy", "semantic")
    np.testing.assert_array_equal(found.read(5, 28), points[5:28])
    rows = np.array([29, 0, 12, 12, 24, 25])
    np.testing.assert_array_equal(found.take(rows), points[rows])
    with pytest.raises(UserError, match=r"nowhere://x\.npy: the semantic embedding cannot be read"):
        Shards.open("nowhere://x.npy", "semantic")


def test_embeddings_that_do_not_fit_are_refused(tmp_path):
    settings = IndexSettings(branching=8, workers=0)
    given = small_embeddings(5)
    with pytest.raises(UserError, match="no embedding given for behaviour; given: semantic"):
        build_index(list("abcde"), {"semantic": given["semantic"]}, settings, 0)
    with pytest.raises(UserError, match="semantic embedding has 5 rows for 4 items"):
        build_index(list("abcd"), given, settings, 0)
    with pytest.raises(UserError, match=r"semantic embedding: there is no .*none-"):
        build_index(list("abcde"), {**given, "semantic": f"{tmp_path}/none-*.npy"}, settings, 0)
    (tmp_path / "text.npy").write_text("not an array")
    with pytest.raises(UserError, match=r"text\.npy: not readable as \.npy"):
        build_index(list("abcde"), {**given, "semantic": tmp_path / "text.npy"}, settings, 0)
    np.save(tmp_path / "whole.npy", np.ones((5, 2), dtype=int))
    with pytest.raises(
        UserError, match=r"an embedding is float \[rows, dim\]; this is int64 \[5, 2\]"
    ):
        build_index(list("abcde"), {**given, "semantic": tmp_path / "whole.npy"}, settings, 0)


def test_tokens_lead_back_to_items_and_survive_the_disk(tmp_path):
    ids = [f"item {n}" for n in range(150)]
    index = build_index(
        ids, small_embeddings(), IndexSettings(branching=8, workers=0, iterations=5), 0
    )
    index.save(tmp_path / "index.parquet")
    loaded = ItemIndex.load(tmp_path / "index.parquet")
    assert [loaded.item(index.tokens(item)) for item in ids] == ids
    assert loaded.item(["<a_0>"]) is None
    assert loaded.sources == index.sources
    for mine, theirs in zip(index.centroids, loaded.centroids, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_an_index_that_contradicts_itself_is_refused(tmp_path):
    with pytest.raises(UserError, match="share a semantic path"):
        ItemIndex(["a", "b"], np.zeros((2, 1), dtype=int), ("semantic",), 4)
    with pytest.raises(UserError, match="names an item twice"):
        ItemIndex(["a", "a"], np.array([[0], [1]]), ("semantic",), 4)
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(UserError, match="item index version None"):
        ItemIndex.load(tmp_path / "other.parquet")


def test_levels_are_named_by_letters():
    assert [level_letters(n) for n in (0, 3, 25, 26, 27)] == ["a", "d", "z", "aa", "ab"]
