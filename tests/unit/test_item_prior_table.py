from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from eager_llm.core.errors import UserError
from eager_llm.item_prior import build as item_prior_build
from eager_llm.item_prior.build import build_item_prior
from eager_llm.item_prior.ease import ease_weights
from eager_llm.item_prior.table import ItemPriorTable
from eager_llm.item_prior.tfidf import item_tfidf
from eager_llm.settings import ItemPriorSettings

PLAIN = ItemPriorSettings(window=2, backward=0.5, damping=0.0, semantic_weight=0.0)


def test_counts_by_hand():
    table = build_item_prior([[0, 1, 2], [0, 1]], 4, None, PLAIN).table.toarray()
    # 0 is followed by 1 twice, by 2 at a gap of two; what came before counts half.
    assert table.tolist() == [[0, 2, 0.5, 0], [1, 0, 1, 0], [0.25, 0.5, 0, 0], [0, 0, 0, 0]]


def test_a_pair_fades_with_a_power_of_its_gap():
    table = build_item_prior([[0, 1, 2]], 3, None, PLAIN.replace(gap_power=2.0)).table.toarray()
    assert table.tolist() == [[0, 1, 0.25], [0.5, 0, 1], [0.125, 0.5, 0]]


def test_damping_divides_by_the_sum():
    plain = build_item_prior([[0, 1, 2]], 3, None, PLAIN).table.toarray()
    damped = build_item_prior(
        [[0, 1, 2]], 3, None, ItemPriorSettings(**{**vars(PLAIN), "damping": 0.5})
    ).table
    assert np.allclose(damped.toarray(), plain / np.sqrt(plain.sum(1, keepdims=True)))


def test_the_regression_of_each_item_on_the_others_by_its_normal_equations():
    rng = np.random.default_rng(5)
    histories = [rng.permutation(7)[: rng.integers(1, 6)].tolist() for _ in range(30)]
    ridge, span = 2.0, 3.0
    gram = np.zeros((7, 7))
    for history in histories:
        for first, one in enumerate(history):
            for second, other in enumerate(history):
                gram[one, other] += np.exp(-abs(first - second) / span)
    expected = np.zeros((7, 7))
    for item in range(7):
        others = [other for other in range(7) if other != item]
        inner = gram[np.ix_(others, others)] + ridge * np.eye(6)
        expected[others, item] = np.linalg.solve(inner, gram[others, item])
    assert np.allclose(ease_weights(histories, 7, ridge, span), expected, atol=1e-5)
    settings = ItemPriorSettings(
        behaviour="ease", ridge=ridge, span=span, top_items=7, semantic_weight=0.0
    )
    found = build_item_prior(histories, 7, None, settings).table.toarray()
    assert np.allclose(found, np.maximum(expected, 0), atol=1e-5)


def test_a_regression_over_too_many_items_is_refused_with_the_way_out():
    with pytest.raises(UserError, match=r"item_prior.behaviour=cooccurrence"):
        ease_weights([[0, 1]], 20_001, 1.0, 1.0)


def test_texts_that_are_alike_speak_for_one_another_and_not_for_themselves():
    angles = np.array([0.0, 0.3, 1.4, np.pi / 2])
    words = csr_matrix(np.stack([np.cos(angles), np.sin(angles)], axis=1).round(12))
    table = build_item_prior(
        [], 4, words, ItemPriorSettings(semantic_weight=0.5, top_items=2), behaviour=False
    ).table.toarray()
    assert np.allclose(np.diag(table), 0)
    assert table[0, 1] == pytest.approx(0.5 * np.cos(0.3), rel=1e-5)
    assert table[0, 3] == 0, "texts without a word in common are no evidence"


def test_the_words_of_each_field_count_alike_and_blocks_change_nothing(monkeypatch):
    items = pd.DataFrame(
        {
            "title": ["red lamp", "red lamp", "blue chair", "green table"],
            "description": [""] * 4,
            "brand": ["Alder", "Birch", "Alder", "Birch"],
            "categories": ["", "", "seats", "tables"],
        }
    )
    words = item_tfidf(items)
    alike = (words @ words.T).toarray()
    # Two fields have words that two items share, each of four counts a quarter.
    assert np.allclose(
        alike, [[0.5, 0.25, 0.25, 0], [0.25, 0.5, 0, 0.25], [0.25, 0, 0.25, 0], [0, 0.25, 0, 0.25]]
    )
    whole = build_item_prior([[0]], 4, words, ItemPriorSettings()).table.toarray()
    monkeypatch.setattr(item_prior_build, "BLOCK_ENTRIES", 4)
    assert np.allclose(
        build_item_prior([[0]], 4, words, ItemPriorSettings()).table.toarray(), whole
    )
    assert item_tfidf(items.assign(title="", brand="", categories="")) is None


def test_the_strongest_are_kept_and_equals_are_not_told_apart_by_number():
    histories = [[0, 1]] * 3 + [[0, 2]] * 2 + [[0, 3]] * 2 + [[0, 4]]
    kept = build_item_prior(
        histories, 5, None, ItemPriorSettings(**{**vars(PLAIN), "top_items": 2})
    ).table.toarray()
    assert kept[0].tolist() == [0, 3, 2, 2, 0]


def test_each_source_looks_back_as_far_as_its_decay_says():
    sources = csr_matrix(np.concatenate([np.eye(3)[[1, 2, 0]], np.eye(3)[[2, 0, 1]]]))
    found = ItemPriorTable(sources, (0.5, 0.1), 1.0, 0.1, 1.0).scores([[0, 1], [], [2]]).toarray()
    # Of the first history 1 speaks for 2 and 0, half and a tenth of that 0 for 1 and 2.
    assert np.allclose(found, [[1, 0.5, 1.1], [0, 0, 0], [1, 1, 0]])


def test_people_who_never_go_back_take_the_evidence_from_what_they_had():
    rng = np.random.default_rng(0)
    once = [rng.permutation(30)[:8].tolist() for _ in range(300)]
    found = build_item_prior(once, 30, None, PLAIN)
    assert found.repeats < 0.01
    had = found.scores([[3, 4, 5]]).toarray()[0, [3, 4, 5]]
    assert np.allclose(
        had,
        found.repeats * replace(found, repeats=1.0).scores([[3, 4, 5]]).toarray()[0, [3, 4, 5]],
    )
    assert build_item_prior([[0]], 4, None, PLAIN).repeats == 1, (
        "nothing is known of a log without a step"
    )


def test_the_evidence_sends_people_back_no_more_often_than_they_go():
    found = build_item_prior([[0, 1, 0]] * 30 + [[0, 1, 2]] * 70, 3, None, PLAIN)
    evidence = found.scores([[0, 1]]).toarray()[0]
    assert evidence[:2].sum() / evidence.sum() == pytest.approx(30.5 / 101, rel=1e-5)
    always = build_item_prior([[0, 1, 0, 1]] * 50, 2, None, PLAIN)
    assert always.repeats == 1, "there is nothing else to go to"


def test_shuffled_item_numbers_give_the_same_evidence():
    rng = np.random.default_rng(0)
    histories = [rng.integers(20, size=6).tolist() for _ in range(50)]
    words = rng.random((20, 4))
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    name = rng.permutation(20)
    one = build_item_prior(histories, 20, csr_matrix(words), ItemPriorSettings(top_items=5))
    moved = np.empty_like(words)
    moved[name] = words
    renamed = [[int(name[i]) for i in history] for history in histories]
    other = build_item_prior(renamed, 20, csr_matrix(moved), ItemPriorSettings(top_items=5))
    both = np.concatenate([name, 20 + name])  # a source after the other
    assert np.allclose(other.table.toarray()[np.ix_(both, name)], one.table.toarray(), atol=1e-6)
    assert other.repeats == pytest.approx(one.repeats)


def test_saved_and_loaded_it_is_the_same_and_of_another_index_it_is_refused(tmp_path):
    table = build_item_prior([[0, 1, 2]], 3, None, PLAIN)
    table.save(tmp_path / "item_prior.safetensors")
    again = ItemPriorTable.load(tmp_path / "item_prior.safetensors", 3)
    assert (again.table != table.table).nnz == 0
    assert (again.decays, again.repeats, again.floor, again.weight) == (
        table.decays,
        table.repeats,
        table.floor,
        table.weight,
    )
    with pytest.raises(UserError, match="an item prior of 3 items; the item index has 4"):
        ItemPriorTable.load(tmp_path / "item_prior.safetensors", 4)
    (tmp_path / "broken").write_bytes(b"none")
    with pytest.raises(UserError, match="not readable as an item prior"):
        ItemPriorTable.load(tmp_path / "broken", 3)
