"""Seconds of training to the same validation NDCG@10: packed trajectories against one example a prefix.

    python benchmarks/training.py --quick                                     (the made-up demo shop, under a minute)
    python benchmarks/training.py --data $EAGER_LLM_DATA/instruments --minutes 10

Both forms train the same model from the same start on `seqrec` alone with the same loss, optimizer and rate; they see
the same trajectories, with as many predictions a step, and batches of both hold examples of like length. The prefix
form is what published code of this family does: a trajectory of n items becomes n examples, each a prompt with a
prefix and the loss on the next item alone. Seconds are those of the one processor thread that trains (on a GPU, of the
clock), whatever else the machine does; they stand still while validation runs. The quality aimed at is the best that the slower
form reached in its time, or the faster one, whichever is less; times are interpolated between validations. Because
validation figures are noisy, the ratio is the median of those at 80, 85, 90 and 95 % of that quality.

The second table takes one batch after another apart: what a step costs with other ways to make the loss.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from index_ablation import examples_of
from reporting import finish, machine, show

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from eager_llm.backbone.hidden_states import hidden_states
from eager_llm.backbone.loading import load_backbone
from eager_llm.backbone.logits import logits_of
from eager_llm.core.compute import fast_cpu_kernels, prepare_torch
from eager_llm.data.demo_shop import demo_shop
from eager_llm.data.importing.importer import import_path
from eager_llm.data.prepare import prepare
from eager_llm.data.tables import Tables
from eager_llm.decoding.recommender import Recommender
from eager_llm.encoders.behaviour import behaviour_embedding
from eager_llm.encoders.semantic import semantic_embedding
from eager_llm.evaluation.evaluate import evaluate_model, training_histories
from eager_llm.index.build import build_index
from eager_llm.index.item_index import ItemIndex
from eager_llm.prompts.builder import Example, PromptBuilder
from eager_llm.settings import Settings
from eager_llm.steps.tune_model import tokenizer_texts
from eager_llm.tuning.batches import collate, plan_batches
from eager_llm.tuning.examples import draw_packed
from eager_llm.tuning.loss import Levels, Totals, TuningLoss
from eager_llm.tuning.trajectories import Trajectory, build_trajectories

WARMUP_STEPS = 50
UNAIDED = "level-wise, products and attention as torch has them"
SHARES = (0.8, 0.85, 0.9, 0.95)
QUICK = [
    "index.branching=32", "backbone.hidden=64", "backbone.layers=2", "backbone.vocabulary=600", "behaviour.epochs=2",
    "tuning.text_tokens=24", "tuning.validation_users=400", "tuning.batch_tokens=1024",
]  # fmt: skip


def clock() -> float:
    """Return seconds of this process's processor time, or of the clock where a GPU works beside it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


@dataclass
class Curve:
    """What a form reached when: seconds of training, and NDCG@10 on validation."""

    seconds: list[float] = field(default_factory=list)
    quality: list[float] = field(default_factory=list)
    tokens: int = 0
    targets: int = 0
    steps: int = 0

    def time_to(self, quality: float) -> float | None:
        """Return the interpolated seconds to a quality, or None where it was not reached."""
        for n, reached in enumerate(self.quality):
            if reached >= quality:
                before, then = (0.0, 0.0) if n == 0 else (self.seconds[n - 1], self.quality[n - 1])
                return before + (self.seconds[n] - before) * (quality - then) / (reached - then)
        return None


class Case:
    """A log with its index, and a model to begin from."""

    def __init__(self, tables: Tables, settings: Settings) -> None:
        self.settings, self.items = settings, tables.items
        self.examples = examples_of(tables, settings)
        ids = tables.items["item_id"].tolist()
        rows = {item: row for row, item in enumerate(ids)}
        train = [[rows[item] for item in history] for history in training_histories(self.examples)]
        embeddings: dict[str, np.ndarray | Path] = {
            "behaviour": behaviour_embedding(train, len(ids), settings.behaviour, settings.seed)
        }
        if any(tables.items["title"]) or any(tables.items["categories"]):
            embeddings = {
                "semantic": semantic_embedding(tables.items, settings.semantic, settings.seed),
                **embeddings,
            }
        sources = [source for source in settings.index.sources if source in embeddings]
        built: Any = {source: embeddings[source] for source in sources}
        self.index: ItemIndex = build_index(
            ids, built, settings.index.replace(sources=sources), settings.seed
        )
        self.texts = tokenizer_texts(tables, settings)
        self.train: list[Trajectory] = build_trajectories(self.examples, self.index, None)
        validation = self.examples[self.examples["split"] == "validation"]
        self.drawn = validation.sample(
            min(settings.tuning.validation_users, len(validation)), random_state=settings.seed
        )

    def model(self) -> tuple[Any, PromptBuilder]:
        """Return the model at its start; the same each time."""
        model, tokenizer = load_backbone(
            self.settings.backbone, self.index, self.texts, self.settings.seed
        )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return model.to(device), PromptBuilder(
            tokenizer, self.index, self.items, self.settings.tuning.text_tokens
        )

    def quality(self, model: Any, prompt_builder: PromptBuilder) -> float:
        """Return NDCG@10 on the drawn validation users."""
        model.eval()
        recommender = Recommender(
            model,
            prompt_builder,
            self.index,
            self.settings.decoding,
            self.settings.data.max_history,
        )
        return evaluate_model(recommender, self.drawn, "validation", show=False)["ndcg@10"]


def packed(
    prompt_builder: PromptBuilder, train: list[Trajectory], rng: np.random.Generator
) -> list[Example]:
    """Return one example a trajectory, with the loss at every item."""
    return [draw_packed(prompt_builder, one.items, rng) for one in train]


def one_a_prefix(
    prompt_builder: PromptBuilder, train: list[Trajectory], rng: np.random.Generator
) -> list[Example]:
    """Return one example an item of each trajectory, with the loss at that item alone."""
    examples = []
    for one in train:
        for place in range(len(one.items)):
            whole = draw_packed(prompt_builder, one.items[: place + 1], rng)
            levels = prompt_builder.item_tokens.shape[1]
            learn = [False] * (len(whole.ids) - levels) + [True] * levels
            examples.append(Example(whole.ids, learn, whole.item_end_positions[-1:]))
    return examples


LogFormat = Callable[[PromptBuilder, list[Trajectory], np.random.Generator], list[Example]]


def batches_of(
    form: LogFormat, prompt_builder: PromptBuilder, train: list[Trajectory], settings: Settings
) -> Iterator[list[Example]]:
    """Yield batches, epoch after epoch: of `batch_tokens` where packed, of as many predictions otherwise."""
    tokens = {
        f: sum(len(e.ids) for e in f(prompt_builder, train, np.random.default_rng(0)))
        for f in (packed, form)
    }
    budget = round(settings.tuning.batch_tokens * tokens[form] / tokens[packed])
    for epoch in range(10**6):
        rng = np.random.default_rng((settings.seed, epoch))
        examples = form(prompt_builder, train, rng)
        for numbers in plan_batches(examples, budget, rng):
            yield [examples[number] for number in numbers]


def train(
    case: Case, form: LogFormat, limit: float, first: float, growth: float, patience: int
) -> Curve:
    """Train for at most `limit` seconds, validating at times that grow; stop where nothing is gained any more."""
    model, prompt_builder = case.model()
    tuning = case.settings.tuning
    levels = (
        Levels(prompt_builder.item_tokens, model.get_input_embeddings().num_embeddings)
        if tuning.loss == "level"
        else None
    )
    module = TuningLoss(model, None, 0.0, levels, tuning.loss_tokens, case.settings.seed).to(
        model.device
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=tuning.learning_rate, weight_decay=tuning.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP_STEPS)
    )
    curve, spent, due = Curve(), 0.0, first
    batches = batches_of(form, prompt_builder, case.train, case.settings)
    while spent < limit:
        model.train()
        started = clock()
        examples = next(batches)
        batch = collate(examples, prompt_builder.tokenizer.pad_token_id).to(model.device)
        learned = int(batch.loss_mask.sum())
        optimizer.zero_grad()
        with fast_cpu_kernels(model.device.type, *batch.ids.shape):
            module(batch, Totals(learned, 1), curve.steps)[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        spent += clock() - started
        curve.steps += 1
        curve.targets += learned
        curve.tokens += sum(len(example.ids) for example in examples)
        if spent >= due:
            due = spent * growth
            curve.seconds.append(spent)
            curve.quality.append(case.quality(model, prompt_builder))
            print(f"  {form.__name__}: {spent:.1f} s, NDCG@10 {curve.quality[-1]:.4f}", flush=True)
            settled = spent > limit / 4 and max(curve.quality[-patience:]) < max(curve.quality)
            if settled:
                break
    return curve


def step_costs(case: Case, repeats: int) -> dict[str, float]:
    """Return the tokens a second of stage 1's steps, by the way the loss is made; medians, taken in turns."""
    settings = case.settings
    found: dict[str, list[float]] = {}
    model, prompt_builder = case.model()
    numbers = plan_batches(
        examples := packed(prompt_builder, case.train, np.random.default_rng(0)), settings.tuning.batch_tokens,
        np.random.default_rng(0),
    )  # fmt: skip
    levels = Levels(prompt_builder.item_tokens, model.get_input_embeddings().num_embeddings).to(
        model.device
    )
    chunk, seed = settings.tuning.loss_tokens, settings.seed
    ways: dict[str, Callable[[Any], torch.Tensor]] = {
        "whole logits": lambda batch: whole_logits(model, batch),
        "chunked": TuningLoss(model, None, 0, None, chunk, seed),
        "level-wise": TuningLoss(model, None, 0, levels, chunk, seed),
        UNAIDED: TuningLoss(model, None, 0, levels, chunk, seed),
        "chunked, bfloat16": TuningLoss(model, None, 0, None, chunk, seed, torch.bfloat16),
        "level-wise, bfloat16": TuningLoss(model, None, 0, levels, chunk, seed, torch.bfloat16),
    }
    for turn in range(repeats):
        chosen = [examples[number] for number in numbers[turn % len(numbers)]]
        batch = collate(chosen, prompt_builder.tokenizer.pad_token_id).to(model.device)
        tokens = sum(len(example.ids) for example in chosen)
        for name, way in ways.items():
            model.zero_grad()
            device = "as it is" if name == UNAIDED else model.device.type
            started = clock()
            with fast_cpu_kernels(device, *batch.ids.shape):
                loss = (
                    way(batch)
                    if name == "whole logits"
                    else way(batch, Totals(int(batch.loss_mask.sum()), 1), 0)[0]
                )  # type: ignore[call-arg]
                loss.backward()
            found.setdefault(name, []).append(tokens / (clock() - started))
    return {name: float(np.median(values[1:])) for name, values in found.items()}


def show_steps(case: Case, repeats: int) -> dict[str, float]:
    """Print and return what a step costs."""
    costs = step_costs(case, repeats)
    show(
        "Forward and backward of packed batches",
        ("loss", "tokens a second"),
        [[n, v] for n, v in costs.items()],
    )
    return costs


def whole_logits(model: Any, batch: Any) -> torch.Tensor:
    """Return the loss the obvious way: all logits of all learned tokens at once."""
    learned = batch.loss_mask[:, 1:]
    hidden = hidden_states(model, batch.ids, use_cache=False).last_hidden_state[:, :-1][learned]
    return torch.nn.functional.cross_entropy(logits_of(model, hidden), batch.ids[:, 1:][learned])


def gpu_figures(case: Case, tokens_a_second: float) -> dict[str, float] | None:
    """Return the card's measured bfloat16 ceiling and the share of it that training reaches; None without a card."""
    if not torch.cuda.is_available():
        return None
    square = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        square @ square
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        square @ square
    torch.cuda.synchronize()
    ceiling = 20 * 2 * 8192**3 / (time.perf_counter() - started)
    parameters = sum(p.numel() for p in case.model()[0].parameters())
    return {
        "bf16_ceiling_tflops": ceiling / 1e12,
        "share_of_ceiling": 6 * parameters * tokens_a_second / ceiling,
    }


def main() -> None:
    """Train both forms and print what they took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of a log; default: the made-up demo shop")
    parser.add_argument(
        "--minutes", type=float, default=6.0, help="most minutes of training of the prefix form"
    )
    parser.add_argument(
        "--set", action="append", default=[], help="such as backbone.hidden=64; repeatable"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small demo shop and model, under a minute"
    )
    parser.add_argument(
        "--steps", action="store_true", help="only the second table, what a step costs"
    )
    arguments = parser.parse_args()
    prepare_torch(1)
    overrides = [
        "index.workers=0",
        *(QUICK if arguments.quick or not arguments.data else []),
        *arguments.set,
    ]
    settings = Settings.read(None, overrides)
    raw = (
        import_path(arguments.data)
        if arguments.data and not arguments.quick
        else demo_shop(0, 1200)
    )
    case = Case(prepare(raw, settings.data.min_interactions), settings)
    repeats = 8 if arguments.quick else 40
    print(machine())
    if arguments.steps:
        finish({"loss_tokens_per_second": show_steps(case, repeats)})
        return
    limit, first = (30.0, 0.5) if arguments.quick else (arguments.minutes * 60, 4.0)
    curves = {
        "packed": train(case, packed, limit / 3, first / 4, 1.2, patience=4),
        "one example a prefix": train(case, one_a_prefix, limit, first, 1.2, patience=4),
    }
    quality = min(max(curve.quality) for curve in curves.values())
    times = [
        [curve.time_to(share * quality) or float("nan") for curve in curves.values()]
        for share in SHARES
    ]
    ratios = [prefix / pack for pack, prefix in times]
    show("Seconds to a quality", ("NDCG@10", *curves, "ratio"),
         [[share * quality, *row, ratio] for share, row, ratio in zip(SHARES, times, ratios, strict=True)])  # fmt: skip
    columns = ("form", "best NDCG@10", "steps", "tokens a second", "learned tokens a second")
    rows = [
        [name, max(c.quality), c.steps, c.tokens / c.seconds[-1], c.targets / c.seconds[-1]]
        for name, c in curves.items()
    ]
    show(
        f"{raw.metadata.get('source', 'log')}: {case.drawn.shape[0]} validation users, one thread",
        columns,
        rows,
    )
    costs = show_steps(case, repeats)
    finish(
        {
            "time_to_quality_ratio": float(np.median(ratios)),
            "ratios": dict(zip(map(str, SHARES), ratios, strict=True)),
            "quality": quality,
            "tokens_per_second": {
                name: curve.tokens / curve.seconds[-1] for name, curve in curves.items()
            },
            "learned_tokens_per_second": {
                name: curve.targets / curve.seconds[-1] for name, curve in curves.items()
            },
            "loss_tokens_per_second": costs,
            "gpu": gpu_figures(case, costs["chunked, bfloat16"]),
        }
    )


if __name__ == "__main__":
    main()
