import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from eager_llm.decoding.beam import beam_search
from eager_llm.decoding.trie import Trie
from eager_llm.tuning.backbone import hidden_states, logits_of


def brute_force(model, item_tokens, prompt):
    """The obvious reference: the log-probability of every item's path, one forward pass."""
    ids = torch.tensor([prompt + path.tolist() for path in item_tokens])
    log_p = logits_of(model, hidden_states(model, ids).last_hidden_state).log_softmax(-1)
    levels = item_tokens.shape[1]
    places = torch.arange(len(prompt) - 1, len(prompt) - 1 + levels)
    steps = log_p[:, places].gather(-1, torch.from_numpy(item_tokens)[..., None])
    return steps.sum((1, 2))


@given(st.integers(1, 40), st.integers(1, 4), st.integers(2, 5), st.integers(0, 99))
@hypothesis_settings(max_examples=60, deadline=None)
def test_the_trie_walks_to_every_item_and_nowhere_else(items, levels, labels, seed):
    rng = np.random.default_rng(seed)
    paths = np.unique(rng.integers(0, labels, size=(items, levels)) + 10 * np.arange(levels), axis=0)
    paths = rng.permutation(paths)
    trie = Trie.build(paths)
    frontier = [(0, ())]
    for level in range(levels):
        reached = []
        for node, path in frontier:
            children, exists = trie.children(torch.tensor([node]), level)
            reached += [(int(c), (*path, int(trie.token[c]))) for c in children[exists]]
        frontier = reached
    found = {path: int(trie.items(torch.tensor([leaf]))[0]) for leaf, path in frontier}
    assert found == {tuple(path): row for row, path in enumerate(paths.tolist())}


def test_enough_beams_equal_brute_force_in_items_order_and_scores(small):
    prompts = [small.book.prompt(history) for history in ([], [5], [1, 2, 3], list(range(20)))]
    count = len(small.index.item_ids)
    with torch.inference_mode():
        items, scores = beam_search(small.model, small.recommender.trie, prompts, count)
        for row, prompt in enumerate(prompts):
            exact = brute_force(small.model, small.book.item_tokens, prompt)
            best, order = exact.sort(descending=True)
            torch.testing.assert_close(scores[row], best, atol=2e-5, rtol=0)
            # Where neighbours differ by more than rounding, the items must stand in that order.
            clear = (best[:-1] - best[1:]) > 1e-4
            clear = torch.cat([clear, torch.tensor([True])]) & torch.cat([torch.tensor([True]), clear])
            assert torch.equal(items[row][clear], order[clear])
            assert sorted(items[row].tolist()) == list(range(count))


def plain_beam_search(model, item_tokens, prompt, beams):
    """Ten obvious lines."""
    paths = {tuple(path): row for row, path in enumerate(item_tokens.tolist())}
    kept = [((), 0.0)]
    for level in range(item_tokens.shape[1]):
        grown = []
        for path, score in kept:
            hidden = hidden_states(model, torch.tensor([[*prompt, *path]])).last_hidden_state[:, -1]
            log_p = logits_of(model, hidden).log_softmax(-1)[0]
            tokens = {p[level] for p in paths if p[:level] == path}
            grown += [((*path, token), score + log_p[token].item()) for token in tokens]
        kept = sorted(grown, key=lambda pair: -pair[1])[:beams]
    return [(paths[path], score) for path, score in kept]


def test_fewer_beams_equal_a_plain_beam_search(small):
    for history in ([4], [9, 8, 7]):
        prompt = small.book.prompt(history)
        with torch.inference_mode():
            items, scores = beam_search(small.model, small.recommender.trie, [prompt], 6)
            expected = plain_beam_search(small.model, small.book.item_tokens, prompt, 6)
        assert items[0].tolist() == [item for item, _ in expected]
        assert scores[0].tolist() == pytest.approx([score for _, score in expected], abs=2e-5)


def test_answers_do_not_depend_on_who_shares_the_batch(small):
    histories = [small.index.item_ids[:n] for n in (1, 12, 3, 0, 7)]
    together = small.recommender.recommend(histories, 10)
    for history, answer in zip(histories, together, strict=True):
        alone = small.recommender.recommend([history], 10)[0]
        assert [item for item, _ in alone] == [item for item, _ in answer]
        assert [score for _, score in alone] == pytest.approx([score for _, score in answer], abs=2e-5)


def test_every_answer_is_an_existing_item_once_best_first(small):
    for row in small.recommender.recommend([[], small.index.item_ids[:5]], 50):
        items = [item for item, _ in row]
        assert len(items) == len(set(items)) == 50
        assert set(items) <= set(small.index.item_ids)
        scores = [score for _, score in row]
        assert scores == sorted(scores, reverse=True)


def test_broken_weights_are_an_error_not_a_ranking(small):
    with torch.no_grad():
        small.model.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError):
        small.recommender.recommend([[]], 5)


@pytest.mark.parametrize("shape", ["llama", "qwen2", "mistral", "gemma", "gpt2"])
def test_other_causal_models_decode_the_same_way(small, shape):
    import transformers as t

    size = {"vocab_size": len(small.book.tokenizer), "hidden_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 48}
    configs = {
        "llama": lambda: t.LlamaConfig(**size, **heads),
        "qwen2": lambda: t.Qwen2Config(**size, **heads),
        "mistral": lambda: t.MistralConfig(**size, **heads),
        "gemma": lambda: t.GemmaConfig(**size, **heads, head_dim=16),
        "gpt2": lambda: t.GPT2Config(vocab_size=size["vocab_size"], n_embd=32, n_layer=2, n_head=2),
    }
    torch.manual_seed(0)
    model = t.AutoModelForCausalLM.from_config(configs[shape]()).eval()
    prompts = [small.book.prompt([1]), small.book.prompt([2, 3, 4])]
    with torch.inference_mode():
        items, scores = beam_search(model, small.recommender.trie, prompts, len(small.index.item_ids))
        for row, prompt in enumerate(prompts):
            exact = brute_force(model, small.book.item_tokens, prompt)
            torch.testing.assert_close(scores[row], exact[items[row]], atol=5e-5, rtol=0)
            torch.testing.assert_close(scores[row], exact.sort(descending=True).values, atol=5e-5, rtol=0)
