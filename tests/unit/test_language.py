"""The language measure against obvious loops, and the sweep of the adapter's scale."""

import math

import pytest
import torch
from decoding_reference import logits_by, plain_beam_search
from peft import LoraConfig, get_peft_model

from eager_llm.decoding.recommender import Recommender
from eager_llm.evaluation.language import MEASURES, STRENGTHS, LanguageProbe, sweep_adapter
from eager_llm.evaluation.report import ReportData, render_report
from eager_llm.evaluation.rouge import rouge_l
from eager_llm.prompts.builder import PromptBuilder
from eager_llm.settings import Settings
from eager_llm.tuning.examples import held_out_rows


@pytest.mark.parametrize(
    ("said", "real", "f1"),
    [
        ("red wool scarf", "Red Wool Scarf", 1.0),
        ("scarf red", "red wool scarf", 2 * 1 / 5),  # of two shared words one is in order
        ("a warm red scarf", "red wool scarf", 2 * 2 / 7),
        ("boots", "red wool scarf", 0.0),
        ("", "scarf", 0.0),
    ],
)
def test_rouge_l_equals_worked_examples(said, real, f1):
    assert rouge_l(said, real) == pytest.approx(f1)


@pytest.fixture
def prompt_builder(small, shop, settings):
    held_out = held_out_rows(small.index, settings.tuning, seed=0)
    return PromptBuilder(
        small.prompt_builder.tokenizer, small.index, shop.items, 12, held_out=held_out
    )


@pytest.fixture
def recommender(small, prompt_builder, settings):
    return Recommender(small.model.eval(), prompt_builder, small.index, settings.decoding, 20)


def test_the_measures_equal_an_obvious_loop(small, prompt_builder, recommender):
    probe = LanguageProbe(prompt_builder, 6, 0)
    assert len(probe.items) == 6
    assert set(probe.held_out_items) <= prompt_builder.held_out
    assert not set(probe.items) & prompt_builder.held_out
    # One item is named right: the question about another names it.
    with torch.inference_mode():
        asked, _ = prompt_builder.probe_prompt("item2index", probe.items[0])
        right = plain_beam_search(
            logits_by(small.model), prompt_builder.item_tokens, asked, 1, "allowed"
        )[0][0]
    prompt_builder.titles[right] = prompt_builder.titles[probe.items[0]]
    probe.items[0] = right
    logits = logits_by(small.model)
    named = written = 0.0
    with torch.inference_mode():
        for item in probe.items:
            asked, _ = prompt_builder.probe_prompt("item2index", item)
            named += (
                plain_beam_search(logits, prompt_builder.item_tokens, asked, 1, "allowed")[0][0]
                == item
            )
            asked, title = prompt_builder.probe_prompt("index2item", item)
            said = []
            while len(said) < prompt_builder.text_tokens and (
                not said or said[-1] != prompt_builder.tokenizer.eos_token_id
            ):
                said.append(int(logits(torch.tensor([asked + said]))[0, -1].argmax()))
            texts = [
                prompt_builder.tokenizer.decode(ids, skip_special_tokens=True)
                for ids in (said, title)
            ]
            written += rouge_l(*texts)
        losses = []
        for item in probe.held_out_items:
            asked, title = prompt_builder.probe_prompt("index2item", item)
            log_p = logits(torch.tensor([asked + title]))[0].log_softmax(-1)
            losses += [-log_p[len(asked) - 1 + n, token].item() for n, token in enumerate(title)]
    found = probe.measure(recommender)
    assert named >= 1
    assert found[MEASURES[0]] == pytest.approx(named / 6)
    assert found[MEASURES[1]] == pytest.approx(written / 6, abs=1e-6)
    assert found[MEASURES[2]] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)


def test_along_the_adapter_scale_the_model_goes_from_the_backbone_to_the_adapter(
    small, prompt_builder, settings
):
    torch.manual_seed(0)
    plain = Recommender(small.model.eval(), prompt_builder, small.index, settings.decoding, 20)
    probe = LanguageProbe(prompt_builder, 6, 0)
    history = [small.index.item_ids[:4]]
    top = lambda recommender: float(recommender.recommend(history, 5)[0][0][1])  # noqa: E731
    backbone, alone = probe.measure(plain), top(plain)
    config = LoraConfig(
        r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    adapted = Recommender(
        get_peft_model(small.model, config).eval(),
        prompt_builder,
        small.index,
        settings.decoding,
        20,
    )
    as_trained = probe.measure(adapted)
    assert as_trained[MEASURES[2]] != pytest.approx(backbone[MEASURES[2]], rel=1e-3)
    together = top(adapted)
    rows = sweep_adapter(adapted, probe, top, show=False)
    assert [row["strength"] for row in rows] == list(STRENGTHS)
    for row, expected, quality in ((rows[0], backbone, alone), (rows[-1], as_trained, together)):
        assert row["ndcg@10"] == pytest.approx(quality, abs=1e-5)
        assert {name: row[name] for name in MEASURES} == pytest.approx(expected, rel=1e-5)
    assert probe.measure(adapted) == pytest.approx(as_trained)
    page = render_report(
        ReportData(
            "t",
            False,
            {},
            {},
            {},
            {},
            [],
            {},
            language={"before stage 1": backbone, "after": as_trained},
            adapter_sweep=rows,
        )
    )
    assert all(name in page for name in MEASURES)
    assert page.count("<svg") == 2


def test_a_catalogue_without_texts_has_no_language_to_measure(small, shop, settings):
    silent = shop.items.assign(title="", categories="", description="")
    prompt_builder = PromptBuilder(small.prompt_builder.tokenizer, small.index, silent, 12)
    probe = LanguageProbe(prompt_builder, 6, 0)
    assert (
        probe.measure(Recommender(small.model, prompt_builder, small.index, settings.decoding, 20))
        == {}
    )


def test_the_adapter_scale_is_a_setting_of_decoding():
    assert Settings.read(None, ["decoding.adapter_strength=0.5"]).decoding.adapter_strength == 0.5
