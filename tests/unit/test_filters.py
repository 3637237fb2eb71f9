"""The filter language, and what becomes of it on the trie."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from decoding_reference import random_paths
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from eager_llm.core.errors import UserError
from eager_llm.decoding.filters import (
    Between,
    Columns,
    OneOf,
    filter_digest,
    parse_condition,
)
from eager_llm.decoding.mask_cache import MaskCache, filter_bytes
from eager_llm.decoding.trie import Trie

ITEMS = pd.DataFrame(
    {
        "item_id": ["a", "b", "c", "d", "e"],
        "brand": ["Acme", "Bosch", "Acme", "", "Dunmore"],
        "categories": ["Tools,Saws", "Tools, Drills", "Toys", "", "Saws"],
        "price": [10.0, 20.0, np.nan, 5.5, 20.0],
        "stock": [True, False, True, True, False],
        "year": [2020, 2021, 2022, 2023, 2024],
    }
)
COLUMNS = Columns(ITEMS, ["e", "d", "c", "b", "a"])


def passing(*conditions):
    found = COLUMNS.passing(frozenset(conditions))
    return "".join(item for item, passes in zip("edcba", found, strict=True) if passes)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (OneOf("item_id", ("a", "d")), "da"),
        (OneOf("item_id", ("a", "d"), deny=True), "ecb"),
        (OneOf("brand", ("Acme",)), "ca"),
        (OneOf("brand", ("Acme", "Bosch"), deny=True), "ed"),
        (OneOf("brand", ("Nobody",)), ""),
        (OneOf("brand", ("",)), "d"),
        (OneOf("categories", ("Saws",)), "ea"),
        (OneOf("categories", ("Drills", "Toys")), "cb"),
        (OneOf("categories", ("Tools",), deny=True), "edc"),
        (OneOf("categories", ("Tools,Saws",)), ""),
        (Between("price", most=10), "da"),
        (Between("price", least=10, most=20), "eba"),
        (Between("price", least=10, deny=True), "dc"),
        (OneOf("price", (20, 5.5)), "edb"),
        (OneOf("price", ("20",)), "eb"),
        (OneOf("stock", (True,)), "dca"),
        (OneOf("stock", ("false",)), "eb"),
        (Between("year", least=2023), "ed"),
    ],
)
def test_a_condition_keeps_what_meets_it(condition, expected):
    assert passing(condition) == expected


def test_all_conditions_must_hold_in_any_order():
    both = OneOf("stock", (True,)), Between("price", most=10)
    assert passing(*both) == passing(*both[::-1]) == "da"
    assert passing() == "edcba"
    assert OneOf("brand", ("b", "a", "b")) == OneOf("brand", ("a", "b"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: passing(OneOf("colour", ("red",))),
            "'colour': the catalogue has no such column; it has item_id, brand",
        ),
        (lambda: passing(OneOf("item_id", ("a", "zz", "y"))), "not in the index: y, zz"),
        (
            lambda: passing(Between("brand", least=1)),
            "'brand': the column holds text; a range needs numbers",
        ),
        (lambda: passing(Between("stock", least=1)), "'stock': the column holds true and false"),
        (lambda: passing(OneOf("price", ("cheap",))), "'price': 'cheap' is not a number"),
        (lambda: passing(OneOf("price", (True,))), "'price': True is not a number"),
        (lambda: passing(OneOf("stock", ("maybe",))), "'stock': 'maybe' is neither true nor false"),
        (lambda: passing(OneOf("brand", (3,))), "'brand': 3 is not text"),
        (lambda: OneOf("brand", ()), "'brand': name at least one value"),
        (lambda: OneOf("brand", "Acme"), "'brand': name at least one value, in a list"),
        (lambda: Between("price"), "'price': a range needs numbers"),
        (lambda: Between("price", least="5"), "'price': a range needs numbers"),
        (lambda: Between("price", most=float("nan")), "'price': a range needs numbers"),
        (lambda: parse_condition("price"), "'price': expected COLUMN=VALUE"),
        (lambda: parse_condition("=x"), "'=x': expected COLUMN=VALUE"),
        (lambda: parse_condition("brand="), "'brand=': expected COLUMN=VALUE"),
        (lambda: parse_condition("price<=ten"), "'ten' is not a number"),
    ],
)
def test_mistakes_are_named(make, said):
    with pytest.raises(UserError) as error:
        make()
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("brand=Acme|Bosch", OneOf("brand", ("Acme", "Bosch"))),
        ("brand != Alder & Finch", OneOf("brand", ("Alder & Finch",), deny=True)),
        ("price<=20", Between("price", most=20)),
        ("price >= 5.5", Between("price", least=5.5)),
        ("title=a<=b", OneOf("title", ("a<=b",))),
    ],
)
def test_conditions_are_read_from_text(text, condition):
    assert parse_condition(text) == condition


def test_conditions_are_written_as_people_read_them():
    assert str(OneOf("brand", ("b", "a"), deny=True)) == "brand != a | b"
    assert str(Between("price", 5, 20)) == "5 <= price <= 20"
    assert str(Between("price", most=20, deny=True)) == "not price <= 20"


@given(st.integers(1, 40), st.integers(1, 4), st.integers(2, 5), st.integers(0, 10**6))
@hypothesis_settings(max_examples=300, deadline=None)
def test_a_node_may_be_entered_exactly_when_an_allowed_item_lies_below(items, levels, labels, seed):
    rng = np.random.default_rng(seed)
    paths = random_paths(rng, items, levels, labels)
    trie = Trie.build(paths)
    passes = {name: rng.random(len(paths)) < 0.4 for name in "xy"}
    masks = MaskCache(trie, passes.__getitem__, batch=3)
    filters = [None, "x", "y"]
    histories = [rng.integers(len(paths), size=rng.integers(6)).tolist() for _ in filters]
    constraint = masks.constraint(filters, histories)
    reached = {(): 0}
    for level in range(trie.depth):
        grown = {}
        for path, node in reached.items():
            nodes = torch.full((3, 1), node, dtype=torch.int32)
            child, exists = trie.children(nodes, level)
            may = constraint.narrow(level, nodes, child, exists)
            for number in range(child.shape[-1]):
                if not exists[0, 0, number]:
                    assert not may[:, 0, number].any()
                    continue
                here = (*path, int(trie.tokens[level][trie.label[child[0, 0, number]]]))
                grown[here] = int(child[0, 0, number])
                below = [
                    row for row, p in enumerate(paths.tolist()) if tuple(p[: level + 1]) == here
                ]
                for prompt, (name, history) in enumerate(zip(filters, histories, strict=True)):
                    left = [
                        r for r in below if r not in history and (name is None or passes[name][r])
                    ]
                    assert bool(may[prompt, 0, number]) == bool(left)
        reached = grown
    for name, history in zip(filters, histories, strict=True):
        left = [
            r for r in range(len(paths)) if r not in history and (name is None or passes[name][r])
        ]
        assert masks.count_allowed(name, history) == len(left)


def test_compiled_filters_are_kept_and_the_oldest_dropped():
    paths = random_paths(np.random.default_rng(0), 20, 2, 6)
    trie, compiled = Trie.build(paths), []

    def compile_filter(name):
        compiled.append(name)
        return np.arange(len(paths)) % (name + 2) == 0

    masks = MaskCache(trie, compile_filter, batch=2, max_bytes=3 * filter_bytes(trie))
    for name in (1, 2, 1, 3, 4, 1):  # room for three: 4 drops 2, the least recently used
        masks.constraint([name], [[]])
    assert compiled == [1, 2, 3, 4]
    masks.constraint([2], [[]])
    assert compiled == [1, 2, 3, 4, 2]
    assert len(masks) == 3
    for name in (4, 1, 2):  # the rows of the flags are theirs still
        assert masks.count_allowed(name) == int(compile_filter(name).sum())
        root = torch.zeros(1, 1, dtype=torch.int32)
        child, exists = trie.children(root, 0)
        may = masks.constraint([name], [[]]).narrow(0, root, child, exists)
        first = {tuple(path)[:1] for path in paths[compile_filter(name)].tolist()}
        assert {(int(trie.tokens[0][trie.label[c]]),) for c in child[may]} == first


LARGE = pd.DataFrame(
    {
        "item_id": list("abcd"),
        "code": [2**53, 2**53 + 1, 2**63 - 1, -(2**63)],
        "unsigned": np.array([2**64 - 1, 2**64 - 2, 0, 2**53 + 1], dtype=np.uint64),
        "gappy": pd.array([2**53 + 1, None, 2**53, 0], dtype="Int64"),
        "amount": [float(2**53), float(2**53 + 2), np.inf, np.nan],
        "flag": pd.array([True, None, False, True], dtype="boolean"),
    }
)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (OneOf("code", (2**53 + 1,)), "b"),
        (OneOf("code", (float(2**53),)), "a"),
        (OneOf("code", (str(2**53 + 1),)), "b"),
        (OneOf("code", (2.5, 10**400, -(10**400), 1.5)), ""),
        (OneOf("code", (2**63 - 1, 2**63)), "c"),
        (Between("code", least=2**53 + 1), "bc"),
        (Between("code", most=2**53), "ad"),
        (Between("code", least=2**53 + 1, most=2**53 + 1), "b"),
        (Between("code", least=10**400), ""),
        (Between("code", least=-(10**400), most=10**400), "abcd"),
        (Between("code", most=float("-inf")), ""),
        (Between("code", least=float("-inf"), most=float("inf")), "abcd"),
        (OneOf("unsigned", (2**64 - 1,)), "a"),
        (OneOf("unsigned", (-1,)), ""),
        (Between("unsigned", least=-1, most=2**53 + 1), "cd"),
        (OneOf("gappy", (2**53 + 1,)), "a"),
        (OneOf("gappy", (0,)), "d"),
        (OneOf("gappy", (0,), deny=True), "abc"),
        (Between("gappy", least=0), "acd"),
        (OneOf("amount", (2**53,)), "a"),
        (OneOf("amount", (2**53 + 1,)), ""),
        (Between("amount", least=2**53 + 1), "bc"),
        (Between("amount", most=2**53 + 1), "a"),
        (Between("amount", most=10**400), "ab"),
        (OneOf("flag", (False,)), "c"),
        (OneOf("flag", (False, True)), "acd"),
    ],
)
def test_numbers_are_compared_exactly(condition, expected):
    found = Columns(LARGE, list("abcd")).passing(frozenset([condition]))
    assert "".join(item for item, passes in zip("abcd", found, strict=True) if passes) == expected


WHOLE = st.integers(-(2**70), 2**70) | st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, 2**63])
ANY_NUMBER = WHOLE | st.floats(allow_nan=False)


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.none(), min_size=1, max_size=8),
    st.lists(ANY_NUMBER, min_size=1, max_size=5),
    ANY_NUMBER | st.none(),
    ANY_NUMBER,
)
@hypothesis_settings(max_examples=300, deadline=None)
def test_numbers_are_compared_as_python_compares_them(cells, values, least, most):
    ids = [str(number) for number in range(len(cells))]
    floats = [None if cell is None else float(cell) for cell in cells]
    for column in (pd.array(cells, dtype="Int64"), pd.array(floats, dtype="Float64")):
        columns = Columns(pd.DataFrame({"item_id": ids, "n": column}), ids)
        given_cells = [None if cell is pd.NA else cell.item() for cell in column]
        found = columns.passing(frozenset([OneOf("n", tuple(values))]))
        assert found.tolist() == [cell is not None and cell in values for cell in given_cells]
        found = columns.passing(frozenset([Between("n", least, most)]))
        assert found.tolist() == [
            cell is not None and (least is None or cell >= least) and cell <= most
            for cell in given_cells
        ]


def test_unknown_items_may_be_denied():
    assert passing(OneOf("item_id", ("a", "zz"), deny=True)) == "edcb"
    assert passing(OneOf("item_id", ("zz",), deny=True)) == "edcba"


def test_true_is_not_one():
    assert OneOf("x", (1, True, 1.5)).values != OneOf("x", (1, 1.5)).values
    with pytest.raises(UserError, match="True is not a number"):
        passing(OneOf("price", (1, True)))


def test_long_values_are_shortened_in_messages():
    long = "x" * 10_000
    for condition in (
        OneOf("price", (long,)),
        OneOf("item_id", tuple(f"{long}{number}" for number in range(100))),
        OneOf(long, ("a",)),
        Between(long, least=10**4000),
    ):
        assert len(str(condition)) < 700
        with pytest.raises(UserError) as error:
            passing(condition)
        assert len(str(error.value)) < 700


def memory_of(work):
    tracemalloc.start()
    work()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held


def test_what_is_remembered_of_filters_has_a_bound_in_bytes():
    ids = [str(number) for number in range(1000)]
    columns = Columns(pd.DataFrame({"item_id": ids, "brand": ids}), ids, max_bytes=100_000)
    columns.prepare()
    paths = random_paths(np.random.default_rng(0), 1000, 3, 12)
    trie = Trie.build(paths)
    columns_of_trie = Columns(
        pd.DataFrame({"item_id": range(trie.items), "price": np.arange(float(trie.items))}),
        list(range(trie.items)),
        max_bytes=100_000,
    )
    masks = MaskCache(trie, columns_of_trie.passing, batch=2, max_bytes=100_000, key=filter_digest)
    prices = iter(range(10**6))

    def many():
        for number in range(200):
            long = tuple(f"{number}-{value:0200}" for value in range(500))
            columns.passing(frozenset([OneOf("brand", long)]))

    def cheap():
        for _ in range(3000):
            masks.count_allowed(frozenset([Between("price", most=next(prices) / 10)]))

    many()
    cheap()
    assert memory_of(many) < 200_000
    assert memory_of(cheap) < 200_000
