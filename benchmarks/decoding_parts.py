"""What the parts of a step cost: the trie, a filter, a remembered prompt; and a card's ceilings."""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from decoding_rivals import BEAMS

from eager_llm.decoding.beam import Beams, BeamSearch, beam_search
from eager_llm.decoding.constraints import Constraint
from eager_llm.decoding.mask_cache import MaskCache
from eager_llm.decoding.prefill import prefill
from eager_llm.decoding.prefix_cache import PrefixCache
from eager_llm.decoding.prompt_attention import SharedPrompts
from eager_llm.decoding.trie import Trie


def medians(device: str, repeats: int, *calls: Callable[[], Any]) -> list[float]:
    """Return the median seconds of calls that take turns, so that noise meets all alike."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 3):
        for number, call in enumerate(calls):
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn >= 3:
                times[number].append(time.perf_counter() - start)
    return [float(np.median(part)) for part in times]


def half_of(trie: Trie, seed: int, prompts: int) -> Constraint:
    """Return a constraint that removes half the catalogue, the same for every prompt."""
    passes = np.random.default_rng((seed, 3)).random(trie.items) < 0.5
    constraint = MaskCache(trie, lambda _: passes, batch=1).constraint(
        ["half"] * prompts, [[]] * prompts
    )
    assert constraint is not None  # noqa: S101
    return constraint


@torch.inference_mode()
def step_shares(
    model: Any, trie: Trie, prompts: list[list[int]], plan: argparse.Namespace
) -> dict[str, Any]:
    """Time the steps of one batch: the model, the choice without the trie, with it, with a filter too.

    A step is one forward pass of the beams and the choice of the next ones. The constraint's share is
    what the choice takes longer than one among the level's tokens without a trie, over the step.
    """
    count, device = len(prompts), plan.device
    half = half_of(trie, plan.seed, count)
    read = SharedPrompts(model, prompts)
    plain, halved = (
        BeamSearch(model, trie, [BEAMS] * count, "level", limits) for limits in (None, half)
    )
    now = plain.advance(0, read.hidden, plain.start())
    step, constraint, filtered = [], [], []
    for level in range(1, trie.depth):
        tokens = plain.tokens(level - 1, trie.label[now.node])[..., None]
        cached = [layer._used for layer in read.cache.layers]
        before = read._ancestors, read._position, read._steps

        def forward(
            tokens: torch.Tensor = tokens,
            now: Beams = now,
            before: Any = before,
            cached: Any = cached,
        ) -> Any:
            read._ancestors, read._position, read._steps = before
            for layer, used in zip(
                read.cache.layers, cached, strict=True
            ):  # take the last turn's tokens back
                layer._used = used
            return read.extend(now.parent, tokens)[:, :, 0]

        hidden = forward()

        def free(level: int = level, now: Beams = now, hidden: torch.Tensor = hidden) -> Any:
            logits, norm = plain.level_logits(level, hidden)
            score, best = (logits - norm + now.score[..., None]).flatten(1).topk(BEAMS, dim=1)
            return best // logits.shape[-1], best % logits.shape[-1], score

        choose = [partial(search.advance, level, hidden, now) for search in (plain, halved)]
        model_s, free_s, trie_s, half_s = medians(device, plan.repeats, forward, free, *choose)
        step.append(model_s + trie_s)
        constraint.append(trie_s - free_s)
        filtered.append(half_s - trie_s)
        now = choose[0]()
    print(f"\nsteps at {trie.items:,} items, batch {count}, {BEAMS} beams, small backbone")
    for level, (whole, trie_s, half_s) in enumerate(
        zip(step, constraint, filtered, strict=True), start=1
    ):
        print(
            f"step {level}: {whole * 1e3:.2f} ms; trie {trie_s * 1e6:+.0f} us ({trie_s / whole:+.2%}), "
            f"filter of half the catalogue {half_s * 1e6:+.0f} us more ({half_s / whole:+.2%})"
        )
    return {
        "constraint_share": sum(constraint) / sum(step),
        "constraint_share_worst_step": max(c / s for c, s in zip(constraint, step, strict=True)),
        "filter_share": sum(filtered) / sum(step),
        "filter_share_worst_step": max(f / s for f, s in zip(filtered, step, strict=True)),
        "trie_us_per_step": 1e6 * sum(constraint) / len(constraint),
    }


def filter_costs(
    model: Any, trie: Trie, prompts: list[list[int]], plan: argparse.Namespace
) -> dict[str, float]:
    """Time whole requests with and without a filter, and what compiling one takes."""
    half = half_of(trie, plan.seed, len(prompts))
    repeats = max(5, plan.repeats // 10)
    plain_s, half_s = medians(
        plan.device,
        repeats,
        lambda: beam_search(model, trie, prompts, BEAMS, "allowed"),
        lambda: beam_search(model, trie, prompts, BEAMS, "allowed", half),
    )
    rng, drawn = np.random.default_rng((plan.seed, 4)), []
    masks = MaskCache(trie, lambda number: drawn[number], batch=8)
    times = []
    for number in range(8):
        drawn.append(rng.random(trie.items) < 0.5)
        start = time.perf_counter()
        masks.constraint([number], [[]])
        times.append(time.perf_counter() - start)
    compile_ms = 1e3 * float(np.median(times))
    print(
        f"whole batch {plain_s * 1e3:.1f} ms, with the filter {half_s * 1e3:.1f} ms; "
        f"a new filter is compiled once, in {compile_ms:.1f} ms"
    )
    return {"filter_request_ratio": half_s / plain_s, "filter_compile_ms": compile_ms}


def returning_user(
    model: Any,
    trie: Trie,
    item_tokens: np.ndarray,
    prompts: list[list[int]],
    plan: argparse.Namespace,
) -> dict[str, float]:
    """Time the request of a user who chose one item more since the last, with and without memory."""
    last = max(prompts, key=len)
    grown = last + item_tokens[0].tolist()
    memory = PrefixCache(1 << 28)
    prefill(model, [last], memory)

    def again() -> None:
        memory.forget(grown)
        beam_search(model, trie, [grown], BEAMS, "allowed", prefix_cache=memory)

    fresh_s, again_s = medians(
        plan.device,
        max(5, plan.repeats // 4),
        lambda: beam_search(model, trie, [grown], BEAMS, "allowed"),
        again,
    )
    print(f"a returning user's request: {again_s * 1e3:.1f} ms instead of {fresh_s * 1e3:.1f} ms")
    return {"returning_user_ratio": fresh_s / again_s}


@torch.inference_mode()
def ceilings(
    model: Any, trie: Trie, prompts: list[list[int]], hardware: str, trie_us: float
) -> dict[str, Any]:
    """Compare prefill with the card's measured arithmetic, and a decode step with its memory speed."""
    size = 8192
    square = torch.randn(size, size, device="cuda")
    flops = 2 * size**3 / medians("cuda", 10, lambda: square @ square)[0]
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / medians("cuda", 10, lambda: target.copy_(source))[0]
    longest = [max(prompts, key=len)] * 32
    body = sum(p.numel() for name, p in model.named_parameters() if "embed" not in name)
    prefill_s = medians("cuda", 10, lambda: prefill(model, longest, None))[0]
    parent = torch.zeros(len(longest), BEAMS, dtype=torch.long, device="cuda")
    tokens = torch.full((len(longest), BEAMS, 1), int(trie.tokens[0][0]), device="cuda")
    read = SharedPrompts(model, longest)
    cached = sum(layer.keys.nbytes + layer.values.nbytes for layer in read.cache.layers)
    step_s = medians("cuda", 3, lambda: read.extend(parent * 0, tokens))[0]
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return {
        "name": hardware,
        "trie_us_per_step": trie_us,
        "measured_tflops": flops / 1e12,
        "measured_gb_per_s": bandwidth / 1e9,
        "prefill_share_of_flops": 2 * body * len(longest) * len(longest[0]) / prefill_s / flops,
        "decode_share_of_bandwidth": (weights + cached) / step_s / bandwidth,
    }
