"""The loss against obvious ways to write it: whole logits, one example a prefix, one large batch, by hand."""

import numpy as np
import pytest
import torch
from conftest import make_small
from decoding_reference import tiny_model
from torch.nn import functional

from eager_llm.backbone.hidden_states import hidden_states
from eager_llm.backbone.logits import logits_of
from eager_llm.core.errors import UserError
from eager_llm.prompts.builder import Example
from eager_llm.settings import Settings
from eager_llm.tuning import loss as loss_module
from eager_llm.tuning.batches import collate
from eager_llm.tuning.global_contrast import GlobalContrast
from eager_llm.tuning.loss import Levels, TuningLoss, cross_entropy
from eager_llm.tuning.stages import _job, stage_one
from eager_llm.tuning.trainer import _backward
from eager_llm.tuning.trajectories import Trajectory


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found, expected, atol=2e-5):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            found[name], expected[name], atol=atol, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(
    "shape", ["llama", "gemma2", "phi", "gpt2"]
)  # untied; softcapped and tied; biased; tied
@pytest.mark.parametrize("levelwise", [False, True])
def test_a_few_logits_at_a_time_give_the_whole_loss_and_gradient(shape, levelwise, monkeypatch):
    model = tiny_model(shape, vocabulary=80)
    rng = np.random.default_rng(0)
    item_tokens = rng.integers(0, 10, size=(30, 3)) + 40 + 12 * np.arange(3)
    levels = Levels(item_tokens, 80) if levelwise else None
    ids = torch.from_numpy(
        np.concatenate(
            [rng.integers(0, 40, size=(4, 6)), item_tokens[:4], item_tokens[4:8]], axis=1
        )
    )

    hidden, targets = (
        hidden_states(model, ids).last_hidden_state[:, :-1].flatten(0, 1),
        ids[:, 1:].flatten(),
    )
    logits = logits_of(model, hidden)
    if levelwise:
        for row, target in enumerate(targets.tolist()):
            over = next(
                (set(column) for column in item_tokens.T.tolist() if target in column),
                set(range(80)),
            )
            left_out = torch.zeros(logits.shape, dtype=torch.bool)
            left_out[row, sorted(set(range(80)) - over)] = True
            logits = logits.masked_fill(left_out, -torch.inf)
    whole = functional.cross_entropy(logits, targets, reduction="sum")
    expected = gradients(model, whole)

    sizes = []
    monkeypatch.setattr(
        loss_module, "logits_of", lambda *a: (out := logits_of(*a), sizes.append(len(out)))[0]
    )
    hidden = hidden_states(model, ids).last_hidden_state[:, :-1].flatten(0, 1)
    chunked = cross_entropy(model, hidden, targets, levels, chunk=7)
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-4)
    assert_same(gradients(model, chunked), expected, atol=1e-3)
    assert max(sizes) <= 7
    with torch.no_grad():
        torch.testing.assert_close(
            cross_entropy(model, hidden, targets, levels, chunk=7), whole, rtol=1e-5, atol=1e-4
        )


@pytest.mark.parametrize("levelwise", [False, True])
def test_a_packed_trajectory_has_the_loss_and_gradient_of_one_example_a_prefix(small, levelwise):
    """The mean over a packed sequence equals the prefixes' losses, weighted by their tokens."""
    items = [3, 17, 5, 40, 17]
    prompt_builder, model = small.prompt_builder, small.model
    levels = (
        Levels(prompt_builder.item_tokens, model.get_input_embeddings().num_embeddings)
        if levelwise
        else None
    )

    def summed(example):
        batch = collate([example], 0)
        hidden = hidden_states(model, batch.ids).last_hidden_state[:, :-1][batch.loss_mask[:, 1:]]
        return cross_entropy(model, hidden, batch.ids[:, 1:][batch.loss_mask[:, 1:]], levels)

    packed = prompt_builder.packed_example(items, 0)
    prefixes = []
    for n, item in enumerate(items):
        prompt, answer = prompt_builder.prompt(items[:n]), prompt_builder.item_tokens[item].tolist()
        prefixes.append(Example(prompt + answer, [False] * len(prompt) + [True] * len(answer), []))
    tokens = sum(packed.loss_mask)
    assert tokens == sum(sum(prefix.loss_mask) for prefix in prefixes)
    once = summed(packed) / tokens
    every = sum(summed(prefix) for prefix in prefixes) / tokens
    torch.testing.assert_close(once, every, rtol=1e-5, atol=1e-5)
    assert_same(gradients(model, summed(packed) / tokens), gradients(model, every))


def test_a_step_of_several_batches_has_the_gradient_of_one_large_batch(small, settings, tmp_path):
    train = [Trajectory([n, n + 1, n + 5]) for n in range(8)] + [Trajectory([50])]
    job = _job(
        "stage-1",
        small.model,
        None,
        small.prompt_builder,
        train,
        settings.tuning.tasks,
        settings,
        tmp_path,
    )
    contrast = GlobalContrast(32, small.embeddings, 20, 0.07)
    job.module = TuningLoss(small.model, contrast, 0.1, None, 1024, 0)
    examples = [small.prompt_builder.packed_example(one.items, 0) for one in train]
    found = []
    for step in ([examples], [examples[:3], examples[3:8], examples[8:]]):
        job.module.zero_grad()
        figures = _backward(job, job.module, step, 0)
        found.append(
            (
                figures,
                {n: p.grad.clone() for n, p in job.module.named_parameters() if p.grad is not None},
            )
        )
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert_same(found[1][1], found[0][1])


def test_the_contrast_equals_a_worked_example():
    contrast = GlobalContrast(
        2, {"semantic": np.array([[2.0, 0.0], [0.0, 3.0]], dtype=np.float32)}, 2, temperature=1.0
    )
    with torch.no_grad():
        for layer in (contrast.projectors["semantic"][0], contrast.projectors["semantic"][2]):
            layer.weight.copy_(torch.eye(2))
            layer.bias.zero_()
    # h = (3, 4), of length 1: (0.6, 0.8). GELU: 0.6 x 0.725747 = 0.435448, 0.8 x 0.788145 = 0.630516.
    # Of length 1: (0.568272, 0.822841). The item's own embedding is (1, 0), the negative's (0, 1):
    # -log(e^0.568272 / (e^0.568272 + e^0.822841)) = log(1 + e^0.254569) = 0.828510.
    loss = contrast(torch.tensor([[3.0, 4.0]]), torch.tensor([0]), torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(0.828510, abs=2e-6)


def test_bfloat16_trains_close_to_float32(small, settings):
    batch = collate([small.prompt_builder.packed_example([1, 2, 3], 0)], 0)
    totals = loss_module.Totals(12, 3)
    losses = [
        TuningLoss(small.model, None, 0.0, None, 1024, 0, precision)(batch, totals, 0)[0].item()
        for precision in (torch.float32, torch.bfloat16)
    ]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)


def changed(settings, **tuning):
    return settings.replace(tuning=settings.tuning.replace(**tuning))


def test_a_checkpoint_of_other_settings_or_data_is_refused(shop, settings, tmp_path):
    train = [Trajectory([n, n + 1]) for n in range(20)]
    made = make_small(shop, settings)
    before = stage_one(made.model, made.prompt_builder, train, made.embeddings, settings, tmp_path)
    assert (
        stage_one(made.model, made.prompt_builder, train, made.embeddings, settings, tmp_path)
        == before
    )
    for other_settings, other_train in (
        (changed(settings, learning_rate=1e-3), train),
        (settings, train[:-1]),
    ):
        with pytest.raises(UserError, match="belongs to other settings or data"):
            stage_one(
                made.model,
                made.prompt_builder,
                other_train,
                made.embeddings,
                other_settings,
                tmp_path,
            )


@pytest.mark.parametrize(
    ("tuning", "absent"),
    [
        ({"contrast_weight": 0.0}, "contrast"),
        ({"text_tasks": False}, None),
        ({"loss": "level"}, None),
    ],
)
def test_a_part_is_switched_off_by_its_setting(
    shop, settings, tmp_path, tuning, absent, monkeypatch
):
    settings = changed(settings, epochs=1, **tuning)
    made = make_small(shop, settings)
    train = [Trajectory([n, n + 1, n + 7]) for n in range(40)]
    lengths = []
    backward = _backward
    monkeypatch.setattr(
        "eager_llm.tuning.trainer._backward",
        lambda j, m, s, n: (lengths.append(len(s[0])), backward(j, m, s, n))[1],
    )
    curve = stage_one(made.model, made.prompt_builder, train, made.embeddings, settings, tmp_path)
    assert absent not in curve[0]
    assert np.isfinite(curve[0]["loss"])
    assert (sum(lengths) == len(train)) == ("text_tasks" in tuning)


def test_a_loss_over_the_level_does_not_go_with_decoding_over_the_vocabulary():
    with pytest.raises(UserError, match=r"decoding\.normalise = 'vocabulary'"):
        Settings.read(None, ["tuning.loss=level", "decoding.normalise=vocabulary"])


def test_tensorboard_files_hold_the_loss(shop, settings, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    made = make_small(shop, settings)
    train = [Trajectory([n, n + 1]) for n in range(20)]
    logged = changed(settings, epochs=2, tensorboard=str(tmp_path / "events"))
    curve = stage_one(made.model, made.prompt_builder, train, made.embeddings, logged, tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path / "events" / "stage-1"))
    events.Reload()
    assert [e.value for e in events.Scalars("epoch/loss")] == pytest.approx(
        [row["loss"] for row in curve]
    )
    assert len(events.Scalars("loss")) == len(events.Scalars("learning_rate")) >= 2
