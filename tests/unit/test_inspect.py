import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from typer.testing import CliRunner

from eager_llm.cli.main import app
from eager_llm.core.errors import UserError
from eager_llm.index.build import build_index
from eager_llm.index.inspect import embedding_comparison, inspect_index, render_inspect
from eager_llm.index.inspect.treemap import HEIGHT, WIDTH, lay_out
from eager_llm.index.item_index import ItemIndex
from eager_llm.index.versions import remove_items
from eager_llm.settings import IndexSettings

ITEMS = 150
IDS = [f"item {n}" for n in range(ITEMS)]


@pytest.fixture(scope="module")
def embeddings():
    rng = np.random.default_rng(1)
    middles = rng.normal(size=(10, 6))
    return {
        name: (
            middles[rng.integers(10, size=ITEMS)] + 0.4 * rng.normal(size=(ITEMS, 6)) + 3
        ).astype(np.float32)
        for name in ("semantic", "behaviour")
    }


@pytest.fixture(scope="module", params=["balanced", "residual"])
def index(request, embeddings):
    return build_index(
        IDS,
        embeddings,
        IndexSettings(branching=8, workers=0, iterations=4, builder=request.param),
        0,
    )


@pytest.fixture(scope="module")
def balanced(embeddings):
    return build_index(IDS, embeddings, IndexSettings(branching=8, workers=0, iterations=4), 0)


def children_of(paths, length, k):
    """The items of every place under the nodes that the first `length` labels make, by an obvious loop."""
    for parent in sorted({tuple(path[:length]) for path in paths}):
        inside = [path for path in paths if tuple(path[:length]) == parent]
        yield (
            -(-len(inside) // k),
            [sum(path[length] == label for path in inside) for label in range(k)],
        )


def test_balance_says_what_counting_says(index):
    for source in inspect_index(index).sources:
        paths = index.codes[:, index.levels_of[source.name]].tolist()
        for level, found in enumerate(source.balance):
            shares, children = zip(*children_of(paths, level, 8), strict=True)
            every = sorted(size for sizes in children for size in sizes)
            assert (found.smallest, found.largest) == (every[0], every[-1])
            assert np.repeat(found.sizes, found.counts).tolist() == every
            assert found.nodes == sum(size > 0 for size in every)
            assert found.places == len(every)
            assert found.even == (min(shares), max(shares))
            assert found.labels == len({path[level] for path in paths})
            over = sum(
                size > share
                for share, sizes in zip(shares, children, strict=True)
                for size in sizes
            )
            assert found.over == over


def test_a_balanced_tree_has_no_node_over_its_share_and_another_has(embeddings):
    over = {}
    for builder in ("balanced", "residual"):
        settings = IndexSettings(
            sources=["semantic"], branching=8, workers=0, iterations=4, builder=builder
        )
        (source,) = inspect_index(build_index(IDS, embeddings, settings, 0)).sources
        over[builder] = sum(level.over for level in source.balance)
    assert over["balanced"] == 0 < over["residual"]


@pytest.mark.parametrize("block", [7, 4096])
def test_neighbours_and_distortion_say_what_loops_say(index, embeddings, block, monkeypatch):
    monkeypatch.setattr(embedding_comparison, "BLOCK_ROWS", block)
    monkeypatch.setattr(embedding_comparison, "SAMPLE_ITEMS", 40)
    for source in inspect_index(index, embeddings=embeddings, seed=3).sources:
        points = embeddings[source.name].astype(np.float64)
        codes = index.codes[:, index.levels_of[source.name]]
        found = source.comparison
        assert (found.sampled, found.nearest, len(set(found.rows))) == (40, 10, 40)
        assert found.variance == pytest.approx(
            np.square(points - points.mean(0)).sum(1).mean(), rel=1e-4
        )
        assert source.errors == pytest.approx(
            index.errors[:, index.levels_of[source.name]].astype(np.float64).mean(0), rel=1e-6
        )
        recorded = index.errors[found.rows, index.levels_of[source.name].stop - 1].mean()
        assert found.distance == pytest.approx(recorded, rel=1e-3)
        for prefix in found.prefixes:
            shares, chances, mosts = [], [], []
            for row in found.rows:
                same = (codes[:, : prefix.length] == codes[row, : prefix.length]).all(1)
                distance = np.square(points - points[row]).sum(1)
                distance[row] = np.inf
                shares.append(same[np.argsort(distance)[:10]].mean())
                chances.append((same.sum() - 1) / (ITEMS - 1))
                mosts.append(min(1, (same.sum() - 1) / 10))
            assert prefix.share == pytest.approx(np.mean(shares))
            assert prefix.margin == pytest.approx(1.96 * np.std(shares) / np.sqrt(40))
            assert prefix.chance == pytest.approx(np.mean(chances))
            assert prefix.most == pytest.approx(np.mean(mosts))
        assert found.prefixes[0].share > 1.5 * found.prefixes[0].chance


def test_rows_are_found_by_their_items_whatever_their_order(balanced, embeddings):
    plain = inspect_index(balanced, embeddings=embeddings).sources[0].comparison
    order = np.random.default_rng(0).permutation(ITEMS)
    extra = {name: np.concatenate([one[order], one[:1] + 9]) for name, one in embeddings.items()}
    shuffled = inspect_index(
        balanced, embeddings=extra, item_ids=[*(IDS[n] for n in order), "not in the index"]
    )
    assert shuffled.sources[0].comparison.prefixes == plain.prefixes
    assert not shuffled.notes


def test_embeddings_of_other_rows_are_noticed(balanced, embeddings):
    turned = {"semantic": embeddings["semantic"][::-1].copy()}
    notes = inspect_index(balanced, embeddings=turned).notes
    assert len(notes) == 1
    assert "semantic embeddings are not those that the paths were made for" in notes[0]


def test_boxes_fill_the_picture_as_large_as_their_weights_and_in_order():
    rng = np.random.default_rng(0)
    boxes = np.array([[0, 0, 0.5, 1], [0.5, 0, 0.5, 1]])
    parent, weight = np.repeat([0, 1], [13, 6]), rng.integers(1, 50, 19)
    found = lay_out(boxes, parent, weight, rng.normal(size=(19, 2)), 0.6)
    total = np.bincount(parent, weight)
    np.testing.assert_allclose(found[:, 2] * found[:, 3], 0.5 * weight / total[parent])
    assert (found[:, 0] >= boxes[parent, 0] - 1e-9).all()
    assert (found[:, 0] + found[:, 2] <= boxes[parent, 0] + 0.5 + 1e-9).all()
    for one in range(19):
        for other in range(one):
            apart = np.maximum(found[one, :2], found[other, :2]) >= (
                np.minimum(found[one, :2] + found[one, 2:], found[other, :2] + found[other, 2:])
                - 1e-9
            )
            assert apart.any()
    places = np.stack([np.arange(16) % 4, np.arange(16) // 4], axis=1).astype(float)
    square = lay_out(np.array([[0.0, 0, 1, 1]]), np.zeros(16, dtype=int), np.ones(16), places, 1)
    np.testing.assert_allclose(square[:, :2] * 4, places, atol=1e-9)


def test_alike_branches_have_alike_colours(balanced):
    source = inspect_index(balanced).sources[0]
    picture = imread(io.BytesIO(source.treemap.png))
    assert picture.shape[:2] == (HEIGHT, WIDTH)
    means = []
    for left, top, width, height in source.treemap.boxes * [WIDTH, HEIGHT, WIDTH, HEIGHT]:
        means.append(
            picture[int(top) : int(top + height), int(left) : int(left + width), :3].mean((0, 1))
        )
    pairs = np.triu_indices(8, 1)
    far = np.linalg.norm(balanced.centroids[0][pairs[0]] - balanced.centroids[0][pairs[1]], axis=1)
    unlike = np.linalg.norm(np.array(means)[pairs[0]] - np.array(means)[pairs[1]], axis=1)
    assert np.corrcoef(far, unlike)[0, 1] > 0.5


def test_branches_hold_their_items_and_typical_ones_are_the_nearest(balanced):
    data = inspect_index(balanced, branches=["<a_1>", "a_2 b_3", "<e_0>"])
    for branch, labels in zip(data.requested, ({0: 1}, {0: 2, 1: 3}, {4: 0}), strict=True):
        rows = [
            n
            for n, codes in enumerate(balanced.codes)
            if all(codes[a] == b for a, b in labels.items())
        ]
        assert branch.items == len(rows)
        assert len(branch.examples) == min(8, len(rows))
        assert {item for _, item in branch.examples} <= {IDS[row] for row in rows}
        assert all(tokens == "".join(balanced.tokens(item)) for tokens, item in branch.examples)
    source = data.sources[1]
    assert [branch.tokens for branch in source.top] == [
        f"<{source.levels[0]}_{n}>" for n in range(8)
    ]
    level = balanced.levels_of[source.name].start
    for label, branch in enumerate(source.top):
        rows = np.flatnonzero(balanced.codes[:, level] == label)
        nearest = rows[np.argsort(balanced.errors[rows, level], kind="stable")[:3]]
        assert [item for _, item in branch.examples] == [IDS[row] for row in nearest]
    assert source.branches[0].items == max(branch.items for branch in source.top)
    assert len({branch.tokens for branch in source.branches}) == 4


class Tags(HTMLParser):
    """Collects what a browser would fetch, and what it would run."""

    def __init__(self):
        super().__init__()
        self.links, self.scripts = [], 0

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        self.links += [
            value
            for name, value in attrs
            if name.split(":")[-1] in ("href", "src", "srcset", "data")
        ]


def test_the_page_is_whole_and_titles_cannot_act(balanced, embeddings):
    titles = {item: f"<script>alert({n})</script> & </title>" for n, item in enumerate(IDS)}
    page = render_inspect(inspect_index(balanced, titles, embeddings, branches=["<a_1>"]))
    tags = Tags()
    tags.feed(page)
    assert tags.scripts == 1  # the page's own
    assert "&lt;script&gt;alert(" in page
    assert tags.links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in tags.links)
    assert not re.findall(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", page)
    assert page == render_inspect(inspect_index(balanced, titles, embeddings, branches=["<a_1>"]))


def test_the_page_says_what_is_missing_and_what_to_give(balanced):
    page = render_inspect(inspect_index(balanced))
    assert "--embedding behaviour=FILE.npy" in page
    assert "No titles were given" in page
    later = render_inspect(inspect_index(remove_items(balanced, IDS[:5])))
    assert "2, made by remove: removed 5" in later
    assert balanced.checksum in later


@pytest.mark.parametrize("items", [1, 2, 8])
def test_the_smallest_indices_have_a_page(items, embeddings):
    given = {name: one[:items] for name, one in embeddings.items()}
    built = build_index(IDS[:items], given, IndexSettings(branching=8, workers=0), 0)
    assert "an item's own" in render_inspect(inspect_index(built, embeddings=given))
    bare = ItemIndex(IDS[:items], np.arange(items, dtype=np.int32)[:, None], ("semantic",), 8)
    assert "does not say how far" in render_inspect(inspect_index(bare))


def test_what_does_not_fit_the_index_is_refused(balanced, embeddings):
    one = {"semantic": embeddings["semantic"]}
    with pytest.raises(
        UserError, match=r"branch '<a_8>': <a_8> is no token of this index.*a to f, labels 0 to 7"
    ):
        inspect_index(balanced, branches=["<a_8>"])
    with pytest.raises(UserError, match="nothing is no token"):
        inspect_index(balanced, branches=[" "])
    with pytest.raises(UserError, match="no item has <a_1> and <a_2>"):
        inspect_index(balanced, branches=["<a_1><a_2>"])
    with pytest.raises(
        UserError, match=r"the items lack 'item 3', which the index has \(2 such items\)"
    ):
        inspect_index(balanced, embeddings=one, item_ids=[*IDS[:3], *IDS[5:]])
    with pytest.raises(UserError, match="'item 0' is given twice"):
        inspect_index(balanced, embeddings=one, item_ids=[*IDS, IDS[0]])
    with pytest.raises(UserError, match="no source 'text'; it has semantic, behaviour"):
        inspect_index(balanced, embeddings={"text": one["semantic"]})
    with pytest.raises(UserError, match="has 3 numbers a row, the index was built on 6"):
        inspect_index(balanced, embeddings={"semantic": one["semantic"][:, :3]})
    with pytest.raises(UserError, match="149 rows for 150 items"):
        inspect_index(balanced, embeddings={"semantic": one["semantic"][1:]})
    with pytest.raises(UserError, match=r"item 'item 2' \(row 2\) is NaN"):
        inspect_index(
            balanced,
            embeddings={
                "semantic": np.where(np.arange(ITEMS)[:, None] == 2, np.nan, 1.0)[:, [0] * 6]
            },
        )


def run(*arguments):
    return CliRunner().invoke(app, ["index", "inspect", *map(str, arguments)])


def test_the_command_writes_the_page_or_nothing(balanced, embeddings, tmp_path):
    balanced.save(tmp_path / "index.parquet")
    np.save(tmp_path / "semantic.npy", embeddings["semantic"])
    items = pd.DataFrame(
        {"item_id": IDS, "title": [f"Saw {n}" if n % 2 else None for n in range(ITEMS)]}
    )
    items.to_parquet(tmp_path / "items.parquet")
    items.to_csv(tmp_path / "items.csv", index=False)
    pages = []
    for file in ("items.parquet", "items.csv"):
        out = tmp_path / f"{file}.html"
        done = run(tmp_path / "index.parquet", "--items", tmp_path / file, "--branch", "<a_1>", "--out", out,
                   "--embedding", f"semantic={tmp_path}/semantic.npy")  # fmt: skip
        assert done.exit_code == 0, done.output
        assert "150 items, version 1" in done.output
        pages.append(out.read_text())
    assert pages[0] == pages[1]
    named = re.findall(r"<tr><td>(Saw|item) (\d+)</td>", pages[0])
    assert {name for name, _ in named} == {"Saw", "item"}
    assert all((name == "Saw") == bool(int(number) % 2) for name, number in named)
    out.write_text("before")
    for wrong, message in (
        (["--branch", "<z_1>"], "no token"),
        (["--embedding", "semantic"], "source=files"),
    ):
        done = run(tmp_path / "index.parquet", *wrong, "--out", out)
        assert isinstance(done.exception, UserError)
        assert message in str(done.exception)
        assert out.read_text() == "before"
