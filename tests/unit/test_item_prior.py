"""The prior beside the model: against brute force and against a plain beam search."""

import numpy as np
import pytest
import torch
from decoding_reference import (
    CheapModel,
    assert_same_ranking,
    best_of,
    brute_force,
    logits_by,
    random_paths,
)
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from eager_llm.decoding.beam import beam_search
from eager_llm.decoding.item_prior import ItemPriorFactory
from eager_llm.decoding.mask_cache import MaskCache
from eager_llm.decoding.prompt_attention import RereadPrompts
from eager_llm.decoding.trie import Trie
from eager_llm.item_prior.table import ItemPriorTable

DECAY, FLOOR = 0.5, 0.2


def neighbours(table, weight):
    return ItemPriorTable(
        csr_matrix(np.asarray(table, dtype=np.float32)), (DECAY,), 1.0, FLOOR, weight
    )


def obvious_prior(table, history):
    """The prior of every item, by its definition."""
    items = table.shape[0]
    evidence = np.zeros(items)
    for gap, item in enumerate(reversed(history)):
        evidence += DECAY**gap * table[item]
    if evidence.sum() == 0:
        return np.full(items, 1 / items)
    return FLOOR / items + (1 - FLOOR) * evidence / evidence.sum()


def fused_beam_search(logits, paths, prompt, beams, prior, weight):
    """Plain beam search over the allowed tokens, with the prior's mass below each prefix."""
    items = [tuple(path) for path in paths.tolist()]

    def mass(prefix):
        return sum(p for item, p in zip(items, prior, strict=True) if item[: len(prefix)] == prefix)

    kept = [((), 0.0)]
    for level in range(paths.shape[1]):
        grown = []
        for path, score in kept:
            step = logits(torch.tensor([[*prompt, *path]]))[0, -1]
            tokens = sorted({item[level] for item in items if item[:level] == path})
            for token in tokens:
                gain = weight * float(np.log(mass((*path, token)) / mass(path)))
                grown.append(
                    (
                        (*path, token),
                        score + (step[token] - step[tokens].logsumexp(0)).item() + gain,
                    )
                )
        kept = sorted(grown, key=lambda pair: -pair[1])[:beams]
    return [(items.index(path), score) for path, score in kept]


@given(
    items=st.integers(1, 30),
    levels=st.integers(1, 4),
    labels=st.integers(2, 5),
    seed=st.integers(0, 10**6),
    weight=st.sampled_from([0.3, 1.0, 2.5]),
)
@hypothesis_settings(max_examples=150, deadline=None)
def test_any_prior_equals_the_references(items, levels, labels, seed, weight):
    rng = np.random.default_rng(seed)
    paths = random_paths(rng, items, levels, labels)
    items = len(paths)
    table = rng.random((items, items)) * (rng.random((items, items)) < 0.3)
    model = CheapModel(int(paths.max()) + 2, seed)
    trie = Trie.build(paths)
    prior_of = ItemPriorFactory(trie, neighbours(table, weight))
    histories = [rng.integers(items, size=length).tolist() for length in (0, 1, 4)]
    prompts = [rng.integers(0, 3, size=2).tolist() for _ in histories]
    priors = [obvious_prior(table, history) for history in histories]
    for beams in (items, max(1, items // 3)):
        found = beam_search(
            model,
            trie,
            prompts,
            beams,
            "allowed",
            prompt_attention=RereadPrompts,
            item_prior=prior_of(histories),
        )
        for rows, scores, prompt, prior in zip(*found, prompts, priors, strict=True):
            if beams == items:
                exact = brute_force(logits_by(model), paths, prompt, "allowed").detach().numpy()
                expected = best_of(exact + weight * np.log(prior))
            else:
                expected = fused_beam_search(logits_by(model), paths, prompt, beams, prior, weight)
            assert_same_ranking(rows.tolist(), scores.tolist(), expected, tolerance=1e-4)


def test_a_filter_changes_no_score():
    rng = np.random.default_rng(0)
    paths = random_paths(rng, 30, 3, 5)
    table = rng.random((len(paths), len(paths))).astype(np.float32)
    trie, passes = Trie.build(paths), rng.random(len(paths)) < 0.4
    model = CheapModel(int(paths.max()) + 2, 0)
    prior = ItemPriorFactory(trie, neighbours(table, 1.0))([[3, 4]])
    every = beam_search(
        model, trie, [[1]], len(paths), "allowed", prompt_attention=RereadPrompts, item_prior=prior
    )
    constraint = MaskCache(trie, lambda _: passes, batch=1).constraint(["half"], [[]])
    some = beam_search(
        model, trie, [[1]], len(paths), "allowed", constraint, RereadPrompts, item_prior=prior
    )
    kept = [
        (i, s) for i, s in zip(every[0][0].tolist(), every[1][0].tolist(), strict=True) if passes[i]
    ]
    live = some[1][0] > -torch.inf
    assert_same_ranking(some[0][0][live].tolist(), some[1][0][live].tolist(), kept)


def test_without_weight_there_is_no_prior():
    paths = random_paths(np.random.default_rng(0), 10, 2, 5)
    assert ItemPriorFactory(Trie.build(paths), neighbours(np.eye(len(paths)), 0.0))([[1]]) is None


@pytest.mark.parametrize("normalise", ["vocabulary", "level"])
def test_with_other_definitions_of_the_score_the_prior_counts_as_much(normalise):
    rng = np.random.default_rng(1)
    paths = random_paths(rng, 25, 3, 5)
    table = rng.random((len(paths), len(paths)))
    model, trie = CheapModel(int(paths.max()) + 2, 3), Trie.build(paths)
    prior_of = ItemPriorFactory(trie, neighbours(table, 0.7))
    found = beam_search(
        model,
        trie,
        [[1, 2]],
        len(paths),
        normalise,
        prompt_attention=RereadPrompts,
        item_prior=prior_of([[5]]),
    )
    exact = brute_force(logits_by(model), paths, [1, 2], normalise).detach().numpy()
    expected = best_of(exact + 0.7 * np.log(obvious_prior(table, [5])))
    assert_same_ranking(found[0][0].tolist(), found[1][0].tolist(), expected, tolerance=1e-4)
