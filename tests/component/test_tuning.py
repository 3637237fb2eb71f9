import shutil

import numpy as np
import pytest
import torch
from conftest import make_small

from eager_llm.backbone.hidden_states import hidden_states
from eager_llm.backbone.logits import logits_of
from eager_llm.backbone.tuned_model import load_tuned, save_tuned
from eager_llm.core.errors import UserError
from eager_llm.prompts.builder import PromptBuilder
from eager_llm.prompts.templates import DEFAULT_FILE, read_templates
from eager_llm.settings import Settings, TaskSettings
from eager_llm.tuning import trainer
from eager_llm.tuning.batches import collate, plan_batches
from eager_llm.tuning.examples import draw_epoch, draw_example
from eager_llm.tuning.global_contrast import info_nce
from eager_llm.tuning.stages import stage_one, stage_two
from eager_llm.tuning.trajectories import Trajectory, build_trajectories, drop_items


def test_all_six_tasks_appear_as_often_as_asked(small, shop, examples):
    train = build_trajectories(examples, small.index, shop.intentions)
    for task in vars(TaskSettings()):
        shares = TaskSettings(**{**dict.fromkeys(vars(TaskSettings()), 0.0), task: 0.5})
        found = draw_epoch(small.prompt_builder, train, shares, np.random.default_rng(0))
        assert len(found) == len(train) // 2
        assert all(any(example.loss_mask) for example in found)
        answers_items = task in ("seqrec", "item2index", "itemsearch")
        assert all(example.item_end_positions for example in found) or not answers_items


def test_tasks_that_need_intentions_are_left_out_without_them(small, examples):
    train = build_trajectories(examples, small.index, None)
    shares = TaskSettings(
        seqrec=0, item2index=0, index2item=0, fusionseqrec=0, itemsearch=1, preferenceobtain=1
    )
    assert draw_epoch(small.prompt_builder, train, shares, np.random.default_rng(0)) == []


def test_trajectories_hold_only_the_training_part(small, shop, examples):
    train = build_trajectories(examples, small.index, shop.intentions)
    future = examples[examples["split"] != "train"]
    wanted = {(u, i) for u, i in zip(future["user_id"], future["item_id"], strict=True)}
    said = {(w.user_id, w.item_id): w.intention for w in shop.intentions.itertuples()}
    users = examples[examples["split"] == "train"]
    for user, target, trajectory in zip(users["user_id"], users["item_id"], train, strict=True):
        assert trajectory.items[-1] == small.index.rows[target]
        if (user, target) not in wanted:
            assert trajectory.intention == said[(user, target)]


def test_thinned_trajectories_keep_their_order_and_their_target():
    whole, rng = Trajectory(list(range(100, 120)), "wish", "taste"), np.random.default_rng(0)
    drawn = [drop_items(whole, 0.3, rng) for _ in range(500)]
    assert all(one.items == sorted(one.items) and one.items[-1] == 119 for one in drawn)
    assert all((one.intention, one.preference) == ("wish", "taste") for one in drawn)
    left_out = 1 - np.mean([(len(one.items) - 1) / 19 for one in drawn])
    assert abs(left_out - 0.3) < 0.02
    assert drop_items(whole, 0.0, rng) == whole
    assert drop_items(Trajectory([7, 8]), 0.9, rng).items == [7, 8]
    assert drop_items(Trajectory([8]), 0.9, rng).items == [8]


def test_packing_trains_the_same_predictions_as_one_example_a_prefix(small):
    """The loss at every item of a packed trajectory equals that of the prefix that ends there."""
    items = [3, 17, 5, 40]
    packed = small.prompt_builder.packed_example(items, 0)
    levels = small.index.levels
    ids = torch.tensor([packed.ids])
    hidden = hidden_states(small.model, ids).last_hidden_state
    log_p = logits_of(small.model, hidden).log_softmax(-1)[0]
    start = len(packed.ids) - len(items) * levels
    for n, item in enumerate(items):
        prompt = small.prompt_builder.prompt(items[:n])
        prefix = torch.tensor([prompt + small.prompt_builder.item_tokens[item].tolist()])
        alone = logits_of(
            small.model, hidden_states(small.model, prefix).last_hidden_state
        ).log_softmax(-1)[0]
        for level in range(levels):
            token = small.prompt_builder.item_tokens[item, level]
            place = start + n * levels + level - 1
            assert log_p[place, token].item() == pytest.approx(
                alone[len(prompt) + level - 1, token].item(), abs=1e-4
            )


def test_closings_point_at_the_last_token_of_an_item(small, shop, examples):
    train = build_trajectories(examples, small.index, shop.intentions)
    for example in draw_epoch(
        small.prompt_builder, train, TaskSettings(), np.random.default_rng(0)
    ):
        for position, item in example.item_end_positions:
            levels = small.index.levels
            assert (
                example.ids[position - levels + 1 : position + 1]
                == small.prompt_builder.item_tokens[item].tolist()
            )


def test_text_answers_can_be_read_back(small, shop):
    example = draw_example(
        small.prompt_builder, "index2item", Trajectory([7]), np.random.default_rng(0)
    )
    answer = [token for token, learn in zip(example.ids, example.loss_mask, strict=True) if learn]
    assert answer[-1] == small.prompt_builder.tokenizer.eos_token_id
    item = shop.items.set_index("item_id").loc[small.index.item_ids[7]]
    assert small.prompt_builder.tokenizer.decode(answer[:-1]).strip() == item["title"]


def test_info_nce_equals_a_worked_example():
    # g = e = (1, 0); negatives (0, 1) and (1, 0), the latter being the item itself; t = 0.5.
    guided = own = torch.tensor([[1.0, 0.0]])
    others, same = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[False, True]])
    # -log(e^2 / (e^2 + e^0)) = log(1 + e^-2) = 0.126928
    assert info_nce(guided, own, others, same, 0.5).item() == pytest.approx(0.126928, abs=1e-6)


def test_batches_hold_every_example_once_within_the_budget(small, shop, examples):
    train = build_trajectories(examples, small.index, shop.intentions)
    found = draw_epoch(small.prompt_builder, train, TaskSettings(), np.random.default_rng(0))
    plan = plan_batches(found, 512, np.random.default_rng(0))
    assert sorted(n for batch in plan for n in batch) == list(range(len(found)))
    for batch in plan:
        assert len(batch) == 1 or collate([found[n] for n in batch], 0).ids.numel() <= 512


class Killed(Exception):
    pass


def train_both_stages(shop, examples, settings, folder):
    made = make_small(shop, settings)
    train = build_trajectories(examples, made.index, shop.intentions)[:60]
    calls = iter([0.3, 0.2, 0.1])
    stage_one(
        made.model,
        made.prompt_builder,
        train,
        made.embeddings,
        settings,
        folder,
        lambda: next(calls),
    )
    adapted, _ = stage_two(made.model, made.prompt_builder, train, settings, folder)
    return adapted.state_dict()


@pytest.mark.parametrize("dies_at", [("stage-1", 0, 3), ("stage-1", 1, 0), ("stage-2", 0, 2)])
def test_a_killed_job_goes_on_to_bit_equal_weights(
    shop, examples, settings, tmp_path, monkeypatch, dies_at
):
    settings = Settings.from_dict(
        {
            **settings.to_dict(),
            "tuning": {**settings.to_dict()["tuning"], "batch_tokens": 512, "item_dropout": 0.2},
        }
    )
    monkeypatch.setattr(trainer, "CHECKPOINT_STEPS", 2)
    unbroken = train_both_stages(shop, examples, settings, tmp_path / "unbroken")
    save = trainer.save_checkpoint

    def dying(run):
        save(run)
        state = run.state
        if (run.job.name, state.epoch) == dies_at[:2] and state.step_in_epoch >= dies_at[2]:
            raise Killed

    monkeypatch.setattr(trainer, "save_checkpoint", dying)
    with pytest.raises(Killed):
        train_both_stages(shop, examples, settings, tmp_path / "killed")
    monkeypatch.setattr(trainer, "save_checkpoint", save)
    resumed = train_both_stages(shop, examples, settings, tmp_path / "killed")
    assert unbroken.keys() == resumed.keys()
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    shutil.rmtree(tmp_path / "killed")


def test_the_best_validated_epoch_is_kept(shop, examples, settings, tmp_path):
    made = make_small(shop, settings)
    train = build_trajectories(examples, made.index, shop.intentions)[:40]
    seen = []

    def validate():
        seen.append({name: value.clone() for name, value in made.model.state_dict().items()})
        return [0.5, 0.1][len(seen) - 1]

    curve = stage_one(
        made.model, made.prompt_builder, train, made.embeddings, settings, tmp_path, validate
    )
    assert [row["validation"] for row in curve] == [0.5, 0.1]
    assert all(torch.equal(value, seen[0][name]) for name, value in made.model.state_dict().items())


def test_a_saved_model_answers_as_before_and_holds_no_projector(
    shop, examples, settings, tmp_path, small
):
    train = build_trajectories(examples, small.index, shop.intentions)[:40]
    stage_one(small.model, small.prompt_builder, train, small.embeddings, settings, tmp_path / "c")
    save_tuned(small.model, small.prompt_builder.tokenizer, small.index, tmp_path)
    adapted, _ = stage_two(small.model, small.prompt_builder, train, settings, tmp_path / "c")
    adapted.save_pretrained(tmp_path / "adapter")
    loaded, tokenizer = load_tuned(tmp_path, small.index)
    ids = torch.tensor([small.prompt_builder.prompt([1, 2, 3])])
    torch.testing.assert_close(
        hidden_states(loaded, ids).last_hidden_state,
        hidden_states(adapted, ids).last_hidden_state,
        rtol=0,
        atol=0,
    )
    assert not [name for name in loaded.state_dict() if "contrast" in name or "projector" in name]
    assert tokenizer.convert_tokens_to_ids(
        "<a_0>"
    ) == small.prompt_builder.tokenizer.convert_tokens_to_ids("<a_0>")


@pytest.mark.parametrize(
    ("right", "wrong", "line", "said"),
    [
        (
            "Name the item of this text: $text",
            "Name the item of this text: $txt",
            9,
            "unknown placeholder $txt; known",
        ),
        ("$intention Item:", "$ Item:", 26, "unknown placeholder $;"),
        ("choices: $history", "choices: $history now", 4, "must be text that ends with $history"),
        ('"prompt": "Whoever', '"promt": "Whoever', 33, "needs a prompt and an answer"),
        ('"answer": "$preference"', '"answer": 7', 31, "the answer must be text"),
        (
            '"itemsearch": [',
            '"itemsearching": [',
            25,
            "unknown task 'itemsearching'; known: seqrec",
        ),
        (
            '"prompt": "A shopper chose, oldest first',
            '"prompt" "A shopper',
            20,
            "neither JSON nor YAML",
        ),
    ],
)
def test_a_broken_template_is_refused_with_its_line(tmp_path, right, wrong, line, said):
    text = DEFAULT_FILE.read_text()
    assert right in text
    file = tmp_path / "mine.json"
    file.write_text(text.replace(right, wrong, 1))
    with pytest.raises(UserError) as error:
        read_templates(file)
    assert f"mine.json, line {line}: " in str(error.value)
    assert said in str(error.value)


def test_a_task_without_templates_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text('seqrec: [{prompt: "Then: $history", answer: $item}]\n')
    with pytest.raises(UserError, match="item2index has no template to train on"):
        read_templates(file)
    with pytest.raises(UserError, match="nowhere"):
        read_templates(tmp_path / "nowhere.json")


def test_held_out_templates_and_items_are_never_trained_on(small, shop, examples):
    held_out = frozenset(range(0, len(small.index.item_ids), 3))
    prompt_builder = PromptBuilder(
        small.prompt_builder.tokenizer, small.index, shop.items, 12, held_out=held_out
    )
    train = build_trajectories(examples, small.index, shop.intentions)
    shares = TaskSettings(
        seqrec=0, item2index=2, index2item=2, fusionseqrec=2, itemsearch=0, preferenceobtain=0
    )
    seen = [
        tuple(example.ids)
        for example in draw_epoch(prompt_builder, train, shares, np.random.default_rng(0))
    ]
    assert len(seen) > len(train)
    for item in (0, 1):
        title = tuple(prompt_builder.titles[item])
        told = [
            ids for ids in seen if any(ids[n : n + len(title)] == title for n in range(len(ids)))
        ]
        assert bool(told) == (item not in held_out)
    for task in ("item2index", "index2item"):
        asked, answer = prompt_builder.probe_prompt(task, 1)
        fields = {*prompt_builder.titles[1], *prompt_builder.item_tokens[1].tolist()}
        words = tuple(token for token in asked[1:] if token not in fields)
        assert words not in {
            tuple(token for token in ids[1 : len(asked)] if token not in fields) for ids in seen
        }
        assert answer == (
            prompt_builder.item_tokens[1].tolist()
            if task == "item2index"
            else [*prompt_builder.titles[1], *prompt_builder.end_tokens]
        )
