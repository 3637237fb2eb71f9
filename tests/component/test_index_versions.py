"""Assigning, refreshing and removing: what must not move does not move."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from eager_llm.cli.main import app
from eager_llm.core.errors import UserError
from eager_llm.index.build import build_index
from eager_llm.index.free_leaves import FreeLeaves
from eager_llm.index.item_index import ItemIndex
from eager_llm.index.refresh import refresh_index
from eager_llm.index.versions import assign_items, grow_index, remove_items
from eager_llm.settings import IndexSettings

ONE = IndexSettings(
    sources=["semantic"], branching=8, iterations=5, full_iterations=1, restarts=1, workers=0
)


def topics(items, seed=0, dim=6):
    """Points in eight clear clusters, and the cluster of each."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, 8, items)
    centres = np.random.default_rng(99).normal(size=(8, dim)) * 4
    return (centres[topic] + rng.normal(size=(items, dim)) * 0.3).astype(np.float32), topic


def ids(items, start=0):
    return [f"item-{n}" for n in range(start, start + items)]


@pytest.fixture
def built():
    points, _ = topics(100)
    return build_index(ids(100), {"semantic": points}, ONE, 0), points


def test_new_items_go_to_their_topic_and_move_nobody(built):
    index, _ = built
    new, _ = topics(40, seed=5)
    fresh = assign_items(index, ids(40, 100), {"semantic": new})
    np.testing.assert_array_equal(fresh.codes[:100], index.codes)
    assert fresh.version == 2
    assert fresh.parent == index.checksum
    assert fresh.change == {"action": "assign", "added": 40}
    nearest = np.square(new[:, None] - index.centroids[0]).sum(-1).argmin(1)
    assert (fresh.codes[100:, 0] == nearest).mean() > 0.9


def test_both_sources_take_leaves_of_their_own():
    points, _ = topics(60)
    other, _ = topics(60, seed=3)
    both = build_index(
        ids(50), {"semantic": points[:50], "behaviour": other[:50]}, replace_sources(), 0
    )
    fresh = assign_items(both, ids(10, 50), {"behaviour": other[50:], "semantic": points[50:]})
    assert fresh.codes.shape == (
        60,
        4,
    )  # that no path is shared, in either source, is checked inside


def replace_sources():

    return ONE.replace(sources=["semantic", "behaviour"])


def test_the_nearest_free_leaf_is_taken_where_one_level_decides():
    codebook = np.array([[0.0], [1.0], [2.0], [3.0]], dtype=np.float32)
    free = FreeLeaves(np.array([[1]]), [codebook])
    codes, errors = free.assign(np.array([[1.1], [1.2]], dtype=np.float32))
    assert codes.tolist() == [[0], [2]]  # 1.2 is nearer to 2 than 1.1 is; leaf 1 is taken
    np.testing.assert_allclose(errors[:, 0], [1.21, 0.64], rtol=1e-5)
    assert len(free) == 1


def test_a_full_tree_says_so(built):
    index, _ = built
    wanted = 8**3 - 100 + 1
    with pytest.raises(UserError, match=f"has 412 free leaves for {wanted} new items"):
        assign_items(index, ids(wanted, 100), {"semantic": topics(wanted)[0]})
    full = assign_items(index, ids(wanted - 1, 100), {"semantic": topics(wanted - 1)[0]})
    assert len(full.item_ids) == 8**3
    freed = remove_items(full, ["item-7"])
    again = assign_items(freed, ["late"], {"semantic": topics(1)[0]})
    assert again.tokens("late") == index.tokens("item-7")


def test_a_million_assigned_items_never_collide():
    """In calls of all sizes, into a tree that ends half full."""
    rng = np.random.default_rng(0)
    free = FreeLeaves(
        np.empty((0, 3), dtype=np.int32),
        [rng.normal(size=(128, 2)).astype(np.float32) for _ in "abc"],
    )
    codes, total = [], 0
    while total < 1_000_000:
        size = min(int(rng.integers(1, 20_000)), 1_000_000 - total)
        codes.append(free.assign(rng.normal(size=(size, 2)).astype(np.float32))[0])
        total += size
    assert len(np.unique(np.concatenate(codes), axis=0)) == 1_000_000
    assert len(free) == 128**3 - 1_000_000


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(0, 99), st.booleans())
@hypothesis_settings(max_examples=60, deadline=None)
def test_assigned_paths_never_collide(sizes, seed, alike):
    rng = np.random.default_rng(seed)
    free = FreeLeaves(
        rng.integers(0, 8, (1, 3)), [rng.normal(size=(8, 2)).astype(np.float32) for _ in "abc"]
    )
    seen = [key for size in sizes for key in free.assign(points_of(rng, size, alike))[0].tolist()]
    assert len({tuple(key) for key in seen}) == sum(sizes)


def points_of(rng, size, alike):
    return (
        np.ones((size, 2), np.float32) if alike else rng.normal(size=(size, 2)).astype(np.float32)
    )


def test_unchanged_embeddings_move_nobody(built):
    index, points = built
    done = refresh_index(index, index.item_ids, {"semantic": points})
    assert done.moved.empty
    np.testing.assert_array_equal(done.index.codes, index.codes)


def test_a_space_that_turned_and_grew_moves_hardly_anybody(built):
    index, points = built
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    turned = (2.5 * points @ turn + 7).astype(np.float32)
    shuffle = np.random.default_rng(2).permutation(100)
    done = refresh_index(index, [index.item_ids[n] for n in shuffle], {"semantic": turned[shuffle]})
    assert (
        len(done.moved) <= 5
    )  # the turn is found from the paths, which say where an item is but roughly
    # New items are placed in the turned space.
    new, _ = topics(40, seed=5)
    plain = assign_items(index, ids(40, 100), {"semantic": new})
    after = assign_items(
        done.index, ids(40, 100), {"semantic": (2.5 * new @ turn + 7).astype(np.float32)}
    )
    assert (plain.codes[100:, 0] == after.codes[100:, 0]).mean() > 0.9


def test_only_items_that_changed_move_and_the_report_says_why(built):
    index, points = built
    changed = points.copy()
    changed[:5] = -points[:5]
    done = refresh_index(index, index.item_ids, {"semantic": changed})
    assert set(done.moved["item_id"]) == set(ids(5))
    np.testing.assert_array_equal(done.index.codes[5:], index.codes[5:])
    row = done.moved.iloc[0]
    assert (row["source"], row["level"]) == ("semantic", "a")
    assert row["error_moved"] < row["error_now"]
    assert row["error_then"] < row["error_now"]
    assert row["tokens_before"] == index.tokens("item-0")
    assert row["tokens_after"] == done.index.tokens("item-0")


def test_slow_drift_counts_from_when_the_path_was_given(built):
    index, points = built
    target = points.copy()
    target[:5] = -points[:5]
    current = index
    for share in np.linspace(0.05, 1, 20):
        current = refresh_index(
            current, index.item_ids, {"semantic": (1 - share) * points + share * target}
        ).index
    assert (current.codes[:5] != index.codes[:5]).any(axis=1).all()


def test_wrong_calls_are_refused(built):
    index, points = built
    with pytest.raises(UserError, match="'item-3' is in the index already"):
        assign_items(index, ["item-3"], {"semantic": points[:1]})
    with pytest.raises(UserError, match="'x' is given twice"):
        assign_items(index, ["x", "x"], {"semantic": points[:2]})
    with pytest.raises(
        UserError, match="semantic embedding has 3 numbers a row, the index was built on 6"
    ):
        assign_items(index, ["x"], {"semantic": points[:1, :3]})
    with pytest.raises(UserError, match=r"item 'y' \(row 1\) is NaN"):
        assign_items(
            index, ["x", "y"], {"semantic": np.array([[1.0] * 6, [np.nan] * 6], dtype=np.float32)}
        )
    with pytest.raises(UserError, match="'nothing' is not in the index"):
        remove_items(index, ["item-1", "nothing"])
    with pytest.raises(UserError, match="empty index"):
        remove_items(index, index.item_ids)
    with pytest.raises(UserError, match="no new embedding for item 'item-99'"):
        refresh_index(index, ids(99), {"semantic": points[:99]})
    with pytest.raises(UserError, match="'item-100' is not in the index"):
        refresh_index(index, ids(101), {"semantic": np.concatenate([points, points[:1]])})


def command(*arguments):
    return CliRunner().invoke(app, ["index", *map(str, arguments)])


def test_the_commands_lead_from_version_to_version(tmp_path):
    points, _ = topics(60)
    pd.DataFrame({"item_id": ids(50)}).to_parquet(tmp_path / "items.parquet")
    pd.DataFrame({"item_id": ids(10, 50)}).to_csv(tmp_path / "new.csv", index=False)
    np.save(tmp_path / "first.npy", points[:50])
    np.save(tmp_path / "new.npy", points[50:])
    np.save(tmp_path / "all-0.npy", points[:50])
    np.save(tmp_path / "all-1.npy", -points[50:])
    pd.DataFrame({"item_id": ids(60)}).to_parquet(tmp_path / "all.parquet")
    steps = [
        ("build", "--items", "items.parquet", "--embedding", "semantic=first.npy", "--out", "1.parquet",
         "--set", "index.branching=8", "--set", "index.workers=0"),
        ("assign", "1.parquet", "--items", "new.csv", "--embedding", "semantic=new.npy", "--out", "2.parquet"),
        ("refresh", "2.parquet", "--items", "all.parquet", "--embedding", "semantic=all-*.npy", "--out", "3.parquet",
         "--moved", "moved.csv"),
        ("remove", "3.parquet", "--item", "item-0", "--out", "4.parquet"),
    ]  # fmt: skip
    for step in steps:
        done = command(*[str(tmp_path / part) if "." in part and "=" not in part else
                         part.replace("=", f"={tmp_path}/") if part.startswith("semantic=") else part
                         for part in step])  # fmt: skip
        assert done.exit_code == 0, done.output
    versions = [ItemIndex.load(tmp_path / f"{n}.parquet") for n in (1, 2, 3, 4)]
    assert [v.version for v in versions] == [1, 2, 3, 4]
    assert [v.parent for v in versions[1:]] == [v.checksum for v in versions[:-1]]
    assert [len(v.item_ids) for v in versions] == [50, 60, 60, 59]
    moved = set(pd.read_csv(tmp_path / "moved.csv")["item_id"])
    assert moved <= set(ids(10, 50))  # 60 of 64 leaves are in use: not everyone finds a better one
    assert len(moved) == versions[2].change["moved"] >= 7


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        ("semantic", "write it as source=files"),
        ("colour=x.npy", "write it as source=files"),
        ("semantic=no.npy", "no"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, embedding, message):
    pd.DataFrame({"item_id": ["a"]}).to_parquet(tmp_path / "items.parquet")
    done = command(
        "build",
        "--items",
        tmp_path / "items.parquet",
        "--embedding",
        embedding,
        "--out",
        tmp_path / "x",
    )
    assert isinstance(done.exception, UserError)
    assert message in str(done.exception)


def test_item_files_without_ids_are_named(tmp_path):
    from eager_llm.data.tables import read_item_ids

    pd.DataFrame({"name": ["a"]}).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(UserError, match=r"a\.csv: not readable as a table with a column item_id"):
        read_item_ids(tmp_path / "a.csv")
    pd.DataFrame({"item_id": ["a", ""]}).to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(UserError, match=r"b\.csv: row 2: item_id is empty"):
        read_item_ids(tmp_path / "b.csv")
    with pytest.raises(UserError, match="no such file"):
        read_item_ids(tmp_path / "c.parquet")


def test_a_version_knows_which_earlier_ones_it_keeps_the_paths_of(built, tmp_path):
    index, points = built
    second = assign_items(index, ids(5, 100), {"semantic": topics(5, seed=7)[0]})
    third = remove_items(
        assign_items(second, ids(5, 105), {"semantic": topics(5, seed=8)[0]}), ["item-100"]
    )
    third.save(tmp_path / "index.parquet")
    loaded = ItemIndex.load(tmp_path / "index.parquet")
    assert loaded.keeps == third.keeps
    assert all(loaded.continues(one.checksum) for one in (index, second, loaded))
    assert not index.continues(second.checksum)
    assert not loaded.continues("")
    shuffled = points[np.random.default_rng(0).permutation(len(points))]
    moved = refresh_index(index, ids(100), {"semantic": shuffled}, tolerance=0.0).index
    assert moved.change["moved"] > 0
    assert moved.parent == index.checksum
    assert not moved.continues(index.checksum)
    still = refresh_index(index, ids(100), {"semantic": points}).index
    assert still.change["moved"] == 0
    assert still.continues(index.checksum)


def turn(dim, seed=3):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0].astype(np.float32)


def test_a_catalogue_that_grew_keeps_every_path_also_where_the_encoder_turned_its_space(built):
    index, points = built
    new, _ = topics(20, seed=5)
    item_ids, everything = [*ids(20, 100), *ids(90)[::-1]], np.concatenate([new, points[:90][::-1]])
    plain, unfit = grow_index(index, item_ids, {"semantic": everything})
    turned, _ = grow_index(index, item_ids, {"semantic": everything @ turn(6)})
    assert unfit == 0
    assert set(plain.item_ids) == set(item_ids)
    for grown in (plain, turned):
        assert [grown.tokens(item) for item in ids(90)] == [index.tokens(item) for item in ids(90)]
        assert grown.continues(index.checksum)
        assert grown.item_ids[-20:] == ids(20, 100)
    # A turned space is the same space: new items go where they would have gone, but for the finest differences.
    assert (plain.codes[-20:, 0] == turned.codes[-20:, 0]).all()
    assert (plain.codes[-20:, 1] == turned.codes[-20:, 1]).mean() > 0.4  # by lot 1 / 8


def test_growing_tells_how_many_paths_no_longer_fit(built):
    index, points = built
    shuffled = points[np.random.default_rng(0).permutation(100)]
    grown, unfit = grow_index(index, ids(100), {"semantic": shuffled})
    assert (
        unfit
        == refresh_index(index, ids(100), {"semantic": shuffled}).moved["item_id"].nunique() / 100
        > 0.3
    )
    np.testing.assert_array_equal(grown.codes, index.codes)
