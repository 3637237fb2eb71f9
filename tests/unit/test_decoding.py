"""Exactness: the decoder against brute force and against a plain beam search."""

import numpy as np
import pytest
import torch
from decoding_reference import (
    CheapModel,
    assert_same_ranking,
    best_of,
    brute_force,
    logits_by,
    plain_beam_search,
    random_paths,
    tiny_model,
)
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from eager_llm.backbone.hidden_states import hidden_states
from eager_llm.decoding.beam import beam_search
from eager_llm.decoding.inference_weights import PackedLinear, optimize_for_inference
from eager_llm.decoding.mask_cache import MaskCache
from eager_llm.decoding.prefix_cache import PrefixCache
from eager_llm.decoding.prompt_attention import (
    RereadPrompts,
    SharedPrompts,
    select_prompt_attention,
)
from eager_llm.decoding.trie import Trie
from eager_llm.settings import NORMALISATIONS

SHARING = ["llama", "qwen2", "qwen2-mixed", "qwen3", "mistral", "gemma", "gemma2", "gemma3", "granite", "cohere",
           "phi", "gpt2"]  # fmt: skip
REREADING = ["bloom", "mamba"]  # positions in the scores, and no attention at all


def live(items, scores):
    """The answers of one prompt: what has a score."""
    found = scores > -torch.inf
    return items[found].tolist(), scores[found].tolist()


@given(
    items=st.integers(1, 30),
    levels=st.integers(1, 4),
    labels=st.integers(2, 5),
    seed=st.integers(0, 10**6),
    normalise=st.sampled_from(NORMALISATIONS),
    constrained=st.booleans(),
)
@hypothesis_settings(max_examples=2500, deadline=None)
def test_any_trie_any_constraint_equals_the_references(
    items, levels, labels, seed, normalise, constrained
):
    rng = np.random.default_rng(seed)
    paths = random_paths(rng, items, levels, labels)
    model = CheapModel(int(paths.max()) + 2, seed)
    prompts = [rng.integers(0, 3, size=rng.integers(1, 4)).tolist() for _ in range(2)]
    trie, constraint, allowed = Trie.build(paths), None, [None, None]
    if constrained:
        passes = {
            name: rng.random(len(paths)) < share for name, share in (("few", 0.2), ("most", 0.8))
        }
        masks = MaskCache(trie, passes.__getitem__, batch=2)
        filters = [[None, "few", "most"][rng.integers(3)] for _ in prompts]
        histories = [rng.integers(len(paths), size=rng.integers(4)).tolist() for _ in prompts]
        constraint = masks.constraint(filters, histories)
        allowed = [passes.get(name, np.ones(len(paths), dtype=bool)).copy() for name in filters]
        for row, history in zip(allowed, histories, strict=True):
            row[history] = False
    for beams in ([len(paths), len(paths)], [int(rng.integers(1, len(paths) + 1)), 1]):
        found = beam_search(model, trie, prompts, beams, normalise, constraint, RereadPrompts)
        for items_row, scores, prompt, width, may in zip(
            *found, prompts, beams, allowed, strict=True
        ):
            expected = best_of(brute_force(logits_by(model), paths, prompt, normalise), may)
            if width < len(paths):
                expected = plain_beam_search(logits_by(model), paths, prompt, width, normalise, may)
            assert_same_ranking(*live(items_row, scores), expected)
            assert len(expected) == min(width, len(paths) if may is None else int(may.sum()))


@pytest.mark.parametrize("normalise", NORMALISATIONS)
@pytest.mark.parametrize("shape", SHARING + REREADING)
def test_every_shape_of_model_equals_brute_force(shape, normalise):
    rng = np.random.default_rng(1)
    model = tiny_model(shape)
    paths = random_paths(rng, 40, 4, 5, first_token=10)
    prompts = [rng.integers(0, 60, size=length).tolist() for length in (1, 9, 14)]
    trie, passes = Trie.build(paths), rng.random(len(paths)) < 0.5
    masks = MaskCache(trie, lambda _: passes, batch=3)
    history = rng.permutation(len(paths))[:5].tolist()
    allowed = [None, passes, passes & ~np.isin(np.arange(len(paths)), history)]
    reader = select_prompt_attention(model)
    assert reader is (SharedPrompts if shape in SHARING else RereadPrompts)
    constraint = masks.constraint([None, "half", "half"], [[], [], history])
    with torch.inference_mode():
        for beams in (len(paths), 4):
            found = beam_search(model, trie, prompts, beams, normalise, constraint, reader)
            for items, scores, prompt, may in zip(*found, prompts, allowed, strict=True):
                if beams == 4:
                    expected = plain_beam_search(
                        logits_by(model), paths, prompt, beams, normalise, may
                    )
                else:
                    expected = best_of(brute_force(logits_by(model), paths, prompt, normalise), may)
                assert_same_ranking(*live(items, scores), expected)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("shape", ["llama", "qwen2-mixed"])
def test_both_ways_of_attention_agree(shape, implementation):
    model = tiny_model(shape)
    model.set_attn_implementation(implementation)
    paths = random_paths(np.random.default_rng(2), 30, 3, 6, first_token=10)
    with torch.inference_mode():
        items, scores = beam_search(model, Trie.build(paths), [[5, 6, 7, 8, 9, 1, 2]], len(paths))
        expected = best_of(brute_force(logits_by(model), paths, [5, 6, 7, 8, 9, 1, 2]))
    assert_same_ranking(*live(items[0], scores[0]), expected)


def whole_model(model):
    """The logits as the model itself gives them, its output layer included."""
    return lambda ids: model(ids).logits


def test_an_adapter_is_part_of_the_model_also_on_the_output_layer():
    from peft import LoraConfig, get_peft_model

    paths = random_paths(np.random.default_rng(3), 30, 3, 6, first_token=10)
    for targets in ("all-linear", ["q_proj", "lm_head"]):
        torch.manual_seed(0)
        adapted = get_peft_model(
            tiny_model("llama"), LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
        )
        adapted.eval()
        for normalise in NORMALISATIONS:
            with torch.inference_mode():
                found = beam_search(
                    adapted,
                    Trie.build(paths),
                    [[1, 2, 3]],
                    30,
                    normalise,
                    prompt_attention=select_prompt_attention(adapted),
                )
                expected = best_of(brute_force(whole_model(adapted), paths, [1, 2, 3], normalise))
            assert_same_ranking(*live(found[0][0], found[1][0]), expected)


def test_made_ready_for_decoding_a_model_answers_the_same():
    from peft import LoraConfig, get_peft_model

    paths = random_paths(np.random.default_rng(3), 30, 3, 6, first_token=10)
    for targets, merged in (("all-linear", True), (["q_proj", "lm_head"], False)):
        torch.manual_seed(0)
        adapted = get_peft_model(
            tiny_model("llama"), LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
        )
        before = beam_search(adapted.eval(), Trie.build(paths), [[1, 2, 3]], len(paths))
        ready = optimize_for_inference(adapted)
        assert hasattr(ready, "merge_and_unload") != merged
        after = beam_search(ready, Trie.build(paths), [[1, 2, 3]], len(paths))
        pairs = list(zip(*(table[0].tolist() for table in before), strict=True))
        assert_same_ranking(after[0][0].tolist(), after[1][0].tolist(), pairs)


@pytest.mark.parametrize("normalise", NORMALISATIONS)
def test_half_precision_gives_scores_near_and_without_ties(normalise):
    rng = np.random.default_rng(8)
    paths = random_paths(rng, 60, 3, 6, first_token=10)
    trie = Trie.build(paths)
    exact = dict(
        zip(
            *(
                t[0].tolist()
                for t in beam_search(tiny_model("llama"), trie, [[1, 2, 3]], len(paths), normalise)
            ),
            strict=True,
        )
    )
    half = optimize_for_inference(tiny_model("llama"), "bfloat16")
    items, scores = beam_search(
        half,
        trie,
        [[1, 2, 3]],
        len(paths),
        normalise,
        prompt_attention=select_prompt_attention(half),
    )
    assert select_prompt_attention(half) is SharedPrompts
    assert len(set(scores[0].tolist())) == len(scores[0])
    assert all(
        abs(exact[item] - score) < 0.5
        for item, score in zip(items[0].tolist(), scores[0].tolist(), strict=True)
    )


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.05)])
@pytest.mark.parametrize("shape", ["llama", "qwen2", "gpt2"])
def test_packed_weights_give_what_unpacked_ones_do(shape, precision, tolerance):
    if not PackedLinear.possible(getattr(torch, precision)):
        pytest.skip(f"this processor has no packed products in {precision}")
    ids = torch.arange(1, 61).view(2, -1)
    with torch.inference_mode():
        expected = hidden_states(
            tiny_model(shape).to(getattr(torch, precision)), ids
        ).last_hidden_state
        ready = optimize_for_inference(tiny_model(shape), precision)
        found = hidden_states(ready, ids).last_hidden_state
    packed = [layer for layer in ready.modules() if isinstance(layer, PackedLinear)]
    assert bool(packed) == (shape != "gpt2")  # whose layers are of another kind
    assert torch.allclose(found.float(), expected.float(), atol=tolerance)


def test_an_adapter_that_cannot_be_merged_is_left_as_it_is_in_half_precision():
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(
        tiny_model("llama"), LoraConfig(r=2, target_modules=["q_proj", "lm_head"])
    )
    ready = optimize_for_inference(adapted.eval(), "bfloat16")
    paths = random_paths(np.random.default_rng(3), 30, 3, 6, first_token=10)
    items, scores = beam_search(ready, Trie.build(paths), [[1, 2, 3]], len(paths))
    assert sorted(items[0].tolist()) == list(range(len(paths)))
    assert torch.isfinite(scores).all()


def test_logits_of_few_children_among_many_tokens_are_the_same():
    rng = np.random.default_rng(4)
    paths = np.stack(
        [np.arange(70), rng.permutation(70) + 100], axis=1
    )  # each first token has one child
    paths = np.concatenate([paths, paths[:5] + np.array([0, 200])])
    for shape in ("llama", "phi", "gemma2"):
        model = tiny_model(shape, vocabulary=400)
        with torch.inference_mode():
            items, scores = beam_search(model, Trie.build(paths), [[1, 2]], len(paths), "allowed")
            expected = best_of(brute_force(logits_by(model), paths, [1, 2], "allowed"))
        assert_same_ranking(*live(items[0], scores[0]), expected)


def test_mixed_lengths_are_read_in_groups_with_the_same_result():
    model, rng = tiny_model("llama"), np.random.default_rng(5)
    paths = random_paths(rng, 60, 3, 6, first_token=10)
    prompts = [rng.integers(0, 60, size=length).tolist() for length in (100, 1, 2, 90, 1, 95, 3)]
    trie = Trie.build(paths)
    items, scores = beam_search(model, trie, prompts, 8)
    for row, prompt in enumerate(prompts):
        alone = beam_search(model, trie, [prompt], 8)
        assert_same_ranking(
            items[row].tolist(),
            scores[row].tolist(),
            list(zip(*(t[0].tolist() for t in alone), strict=True)),
        )


@pytest.mark.parametrize("shape", ["llama", "qwen2-mixed", "mistral", "gpt2"])
def test_a_remembered_prompt_changes_nothing(shape):
    model, rng = tiny_model(shape), np.random.default_rng(6)
    paths = random_paths(rng, 40, 3, 6, first_token=10)
    trie, memory = Trie.build(paths), PrefixCache(1 << 20)
    users = [rng.integers(0, 60, size=30).tolist() for _ in range(4)]
    for lengths in ((3, 9, 12, 1), (5, 9, 20, 30), (5, 30, 2, 30)):  # longer, the same, shorter
        prompts = [user[:length] for user, length in zip(users, lengths, strict=True)]
        found, expected = (
            beam_search(model, trie, prompts, 6, prefix_cache=memory),
            beam_search(model, trie, prompts, 6),
        )
        for row in range(len(prompts)):
            pairs = list(zip(expected[0][row].tolist(), expected[1][row].tolist(), strict=True))
            assert_same_ranking(found[0][row].tolist(), found[1][row].tolist(), pairs)
    assert memory.reused_tokens == (3 + 9 + 12 + 1) + (5 + 9 + 0 + 30)
    assert 0 < memory.bytes <= memory.max_bytes


def test_asked_the_same_again_the_answer_is_the_same_to_the_last_bit():
    model, rng = tiny_model("llama"), np.random.default_rng(9)
    paths = random_paths(rng, 40, 3, 6, first_token=10)
    trie, memory = Trie.build(paths), PrefixCache(1 << 20)
    prompts = [rng.integers(0, 60, size=length).tolist() for length in (9, 30)]
    first, again = (beam_search(model, trie, prompts, 6, prefix_cache=memory) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_memory_of_prompts_is_bounded_and_drops_the_oldest():
    entry = [(torch.zeros(2, 4, 8), torch.zeros(2, 4, 8))]
    memory = PrefixCache(2 * 512)
    for token in (1, 2, 3):
        memory.add([token] * 4, entry, torch.zeros(1, 8))
        memory.find([1] * 5)
    assert (len(memory), memory.bytes) == (2, 1024)
    assert memory.find([1] * 5)
    assert not memory.find([2] * 5)
    memory.add(
        [9] * 40, [(torch.zeros(2, 40, 8), torch.zeros(2, 40, 8))], torch.zeros(1, 8)
    )  # larger than all there is
    assert len(memory) == 2


@pytest.mark.parametrize("normalise", NORMALISATIONS)
def test_broken_weights_are_an_error_not_a_ranking(normalise):
    model = tiny_model("llama")
    paths = random_paths(np.random.default_rng(7), 20, 3, 4, first_token=10)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 4] = float("nan")
    with pytest.raises(FloatingPointError):
        beam_search(model, Trie.build(paths), [[1, 2]], 5, normalise)
    with pytest.raises(FloatingPointError):
        select_prompt_attention(model)


def test_a_model_that_changes_its_logits_in_unknown_ways_is_refused(monkeypatch):
    model = tiny_model("llama")
    forward = type(model).forward

    def changed(self, *args, **options):
        output = forward(self, *args, **options)
        output.logits = output.logits * 2
        return output

    monkeypatch.setattr(type(model), "forward", changed)
    with pytest.raises(NotImplementedError, match="more to its logits"):
        select_prompt_attention(model)
