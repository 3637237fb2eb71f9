"""Any causal LM as the backbone: tuned, saved, adapted, merged and loaded again, it answers as before."""

import json

import numpy as np
import pytest
import torch
from conftest import make_small
from decoding_reference import tiny_model

from eager_llm.backbone.adapter_strength import set_adapter_strength
from eager_llm.backbone.hidden_states import hidden_states
from eager_llm.backbone.index_tokens import initialize_from_centroids
from eager_llm.backbone.loading import load_backbone, train_tokenizer
from eager_llm.backbone.logits import logits_of
from eager_llm.backbone.tuned_model import load_tuned, save_tuned
from eager_llm.decoding.inference_weights import optimize_for_inference
from eager_llm.decoding.recommender import Recommender
from eager_llm.prompts.builder import PromptBuilder
from eager_llm.settings import BackboneSettings
from eager_llm.tuning.stages import stage_one, stage_two
from eager_llm.tuning.trajectories import build_trajectories

SHAPES = [("llama", False), ("llama", True), ("qwen2", False), ("qwen2", True), ("mistral", False), ("gemma", True),
          ("gemma", False), ("gpt2", True), ("gpt2", False)]  # fmt: skip
SAMPLING = {"do_sample": True, "temperature": 0.1, "top_k": 3, "num_beams": 4, "max_new_tokens": 7}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, shop):
    """A foreign checkpoint on disk: made when first asked for."""

    def make(shape, tied):
        folder = tmp_path_factory.mktemp(shape)
        tokenizer = train_tokenizer(list(shop.items["title"]), 300)
        model = tiny_model(shape, len(tokenizer))
        if model.config.tie_word_embeddings != tied:
            config = model.config
            config.tie_word_embeddings = tied
            torch.manual_seed(0)
            model = type(model)(config)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "generation_config.json").write_text(json.dumps(SAMPLING))
        return folder

    return make


@pytest.fixture(scope="module")
def made(shop, settings):
    return make_small(shop, settings)


def answers(model, ids):
    with torch.inference_mode():
        return logits_of(model, hidden_states(model.eval(), ids).last_hidden_state)


@pytest.mark.parametrize(("shape", "tied"), SHAPES)
def test_a_foreign_model_answers_as_before_when_it_is_saved_adapted_merged_and_loaded(
    shape, tied, checkpoint, made, shop, examples, settings, tmp_path
):
    model, tokenizer = load_backbone(
        BackboneSettings(model=str(checkpoint(shape, tied))), made.index, [], 0
    )
    is_tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert is_tied == tied
    prompt_builder = PromptBuilder(tokenizer, made.index, shop.items, 12)
    train = build_trajectories(examples, made.index, shop.intentions)[:30]
    stage_one(model, prompt_builder, train, made.embeddings, settings, tmp_path / "c")
    save_tuned(model, tokenizer, made.index, tmp_path)
    ids = torch.tensor([prompt_builder.prompt([1, 2, 3]), prompt_builder.prompt([4, 5, 6])])
    stage_one_answers = answers(model, ids)
    adapted, _ = stage_two(model, prompt_builder, train, settings, tmp_path / "c")
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight += 0.05 * torch.randn_like(weight)
    adapted.save_pretrained(tmp_path / "adapter")
    before = answers(adapted, ids)
    assert (before - stage_one_answers).abs().max() > 1e-3

    loaded, loaded_tokenizer = load_tuned(tmp_path, made.index)
    assert (loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight) == tied
    torch.testing.assert_close(answers(loaded, ids), before, rtol=0, atol=0)
    set_adapter_strength(loaded, 0.0)
    torch.testing.assert_close(answers(loaded, ids), stage_one_answers, rtol=0, atol=0)
    set_adapter_strength(loaded, 0.5)
    halved = answers(loaded, ids)
    assert (halved - before).abs().max() > 1e-4
    merged = optimize_for_inference(loaded, strength=1.0)
    assert not hasattr(merged, "merge_and_unload")
    torch.testing.assert_close(answers(merged, ids), before, rtol=1e-4, atol=1e-4)
    half_merged = optimize_for_inference(load_tuned(tmp_path, made.index)[0], strength=0.5)
    torch.testing.assert_close(answers(half_merged, ids), halved, rtol=1e-4, atol=1e-4)

    ranked = [
        Recommender(one, prompt_builder, made.index, settings.decoding, 20).recommend(
            [made.index.item_ids[:3]], 5
        )[0]
        for one in (adapted, merged)
    ]
    assert [(item, f"{score:.3f}") for item, score in ranked[0]] == [
        (i, f"{s:.3f}") for i, s in ranked[1]
    ]
    assert loaded_tokenizer.convert_tokens_to_ids("<a_0>") == tokenizer.convert_tokens_to_ids(
        "<a_0>"
    )
    kept = json.loads((tmp_path / "backbone" / "generation_config.json").read_text())
    config = json.loads((tmp_path / "backbone" / "config.json").read_text())
    for name, value in SAMPLING.items():
        assert kept.get(name) != value
        assert config.get(name) != value


@pytest.mark.parametrize(("shape", "tied"), [("llama", True), ("llama", False), ("gpt2", True)])
def test_index_tokens_start_where_their_centroids_lie(shape, tied, checkpoint, made):
    folder = str(checkpoint(shape, tied))
    noise, tokenizer = load_backbone(BackboneSettings(model=folder), made.index, [], 0)
    placed, _ = load_backbone(
        BackboneSettings(model=folder, new_tokens="centroids"), made.index, [], 0
    )
    ids = [tokenizer.convert_tokens_to_ids(f"<a_{label}>") for label in range(made.index.branching)]
    for layer in ("get_input_embeddings", "get_output_embeddings"):
        before, after = getattr(noise, layer)().weight, getattr(placed, layer)().weight
        assert torch.equal(before[: ids[0]], after[: ids[0]])
        points = torch.from_numpy(np.asarray(made.index.centroids[0]))
        # Rank correlation of distances: 1 where the model is at least as wide as the source.
        found, expected = torch.pdist(after[ids].detach()), torch.pdist(points.float())
        assert torch.corrcoef(torch.stack([found, expected]))[0, 1] > 0.999
        assert after[ids].std().item() == pytest.approx(before[: ids[0]].std().item(), rel=0.3)


def test_centroids_wider_than_the_model_keep_their_main_axes(made, shop, settings):
    model, tokenizer = make_small(shop, settings).model, made.prompt_builder.tokenizer
    wide = [
        np.random.default_rng(n).normal(size=(32, 200)).astype(np.float32)
        for n in range(made.index.levels)
    ]
    index = type(made.index)(
        made.index.item_ids, made.index.codes, made.index.sources, made.index.branching, wide
    )
    initialize_from_centroids(model, tokenizer, index)
    assert torch.isfinite(model.get_input_embeddings().weight).all()
