"""The rivals of the benchmark do the same work as we do: else the comparison says nothing."""

import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from decoding import make_catalogue
from decoding_checks import same_answers
from decoding_rivals import FREE, MASKED, METHODS, REFERENCE, SAME, Decoded, Walker

from eager_llm.decoding.trie import Trie


@pytest.fixture(scope="module")
def case():
    from transformers import LlamaConfig, LlamaForCausalLM

    item_tokens = make_catalogue(700, seed=0)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=2000 + 4 * 256, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=128)  # fmt: skip
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 2000, size=length).tolist() for length in (4, 19)]
    return LlamaForCausalLM(config).eval(), item_tokens, Trie.build(item_tokens), prompts


def decoded(case, name):
    model, item_tokens, trie, prompts = case
    (method,) = [method for method in METHODS if method.name == name]
    return method.prepare(model, item_tokens, trie)(prompts)


@pytest.mark.parametrize("rival", [REFERENCE, MASKED])
def test_generate_answers_as_we_do(case, rival):
    theirs = decoded(case, rival)
    assert (theirs.items >= 0).all()
    assert same_answers(decoded(case, SAME), theirs)


def test_without_a_constraint_invalid_items_come_and_are_counted(case):
    assert (decoded(case, FREE).items < 0).any()


def test_every_item_is_found_by_its_path_and_nothing_else(case):
    _, item_tokens, trie, _ = case
    walker = Walker(trie)
    assert walker.items(torch.from_numpy(item_tokens)).tolist() == list(range(len(item_tokens)))
    for level in range(item_tokens.shape[1]):
        wrong = item_tokens.copy()
        wrong[:, level] = 5  # a text token
        assert (walker.items(torch.from_numpy(wrong)) == -1).all()


def test_other_answers_are_told_apart():
    ours = Decoded(np.array([[1, 2]]), np.array([[-1.0, -2.0]]))
    assert same_answers(ours, ours)
    assert not same_answers(ours, Decoded(np.array([[1, 2]]), np.array([[-1.0, -2.1]])))
    assert not same_answers(ours, Decoded(np.array([[2, 1]]), np.array([[-1.0, -2.0]])))
