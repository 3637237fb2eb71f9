"""How fast items are decoded, beside the other ways to do it: same weights, machine and requests, one run.

python benchmarks/decoding.py [--quick]

Prints a table and, as the last line, one JSON object. Latencies are of single calls after a warm-up; a
ratio compares two methods over the same requests. Slow methods run as often as their time allows, at
least once; a call that would take too long is left out, and the table says so.
"""

import argparse
import ctypes
import math
import os
import threading
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from decoding_checks import exactness, same_answers
from decoding_parts import ceilings, filter_costs, returning_user, step_shares
from decoding_rivals import DEFAULT, FREE, HALF, MASKED, METHODS, OURS, REFERENCE, SAME, Decoded
from reporting import finish, machine

from eager_llm.decoding.trie import Trie

TEXT_TOKENS, BRANCHING, LITERAL = 2000, 256, 12
LONG = 120
TURN = 8
BACKBONES = {"small": (4, 256), "mid-size": (8, 512)}


def make_catalogue(items: int, seed: int) -> np.ndarray:
    """Return paths int64 [items, levels] like those of a balanced index of two sources, k = 256."""
    rng = np.random.default_rng((seed, items))
    height = 1
    while BRANCHING**height < items:
        height += 1
    columns = []
    for _ in range(2):
        place, size = rng.permutation(items), np.full(items, items)
        for _ in range(height):
            capacity = -(-size // BRANCHING)
            label = place // capacity
            place, size = place % capacity, np.minimum(capacity, size - label * capacity)
            columns.append(label)
    return np.stack(columns, axis=1) + TEXT_TOKENS + BRANCHING * np.arange(2 * height)


def make_backbone(name: str, levels: int, seed: int, device: str) -> Any:
    """Return a Llama-shaped model with random weights: speed does not depend on them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, hidden = BACKBONES[name]
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=TEXT_TOKENS + levels * BRANCHING,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(device).eval()


def make_prompts(
    item_tokens: np.ndarray, count: int, seed: int, tokens: int | None = None
) -> list[list[int]]:
    """Return prompts of a few words and a history of 1 to 20 items, or as many as make so many tokens."""
    rng = np.random.default_rng((seed, 1))
    words = rng.integers(3, TEXT_TOKENS, LITERAL).tolist()
    lengths = rng.integers(1, 21, count)
    if tokens is not None:
        lengths[:] = (tokens - LITERAL) // item_tokens.shape[1]
    return [
        words + item_tokens[rng.integers(len(item_tokens), size=n)].flatten().tolist()
        for n in lengths
    ]


class PeakMemory:
    """The most memory that a block takes beyond what was taken before, in bytes."""

    def __init__(self, device: str) -> None:
        self.device, self.bytes = device, 0

    def __enter__(self) -> "PeakMemory":
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self._before = torch.cuda.memory_allocated()
            return self
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:  # what earlier methods gave back must not hide what this one takes
            trim(0)
        self._before = self._peak = self._resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device == "cuda":
            self.bytes = torch.cuda.max_memory_allocated() - self._before
            return
        self._stop.set()
        self._thread.join()
        self.bytes = max(self._peak, self._resident()) - self._before

    @staticmethod
    def _resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self._peak = max(self._peak, self._resident())


def timed(
    decode: Callable[[list[list[int]]], Decoded], batch: list[list[int]], device: str
) -> tuple[float, Decoded]:
    """Return the seconds that a call takes, and its answer."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    answer = decode(batch)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, answer


def measure(
    model: Any,
    item_tokens: np.ndarray,
    trie: Trie,
    batch: int,
    plan: argparse.Namespace,
    expected: dict[str, float],
    tokens: int | None = None,
) -> list[dict[str, Any]]:
    """Run every method on the same batches of requests, in turns, so that noise meets all; return a row a method.

    A turn is a few calls, as a service has them one after another: what another method leaves in the
    processor's caches slows the first calls of a turn only.

    Args:
        expected: seconds a request of each method, learned from smaller batches; brought up to date.
    """
    prompts = make_prompts(item_tokens, batch * plan.calls, plan.seed, tokens)
    batches = [prompts[start : start + batch] for start in range(0, len(prompts), batch)]
    rows: list[dict[str, Any]] = [{"method": method.name, "times": []} for method in METHODS]
    decoders, answers = {}, {method.name: [] for method in METHODS}
    for method, row in zip(METHODS, rows, strict=True):
        seconds = expected.get(method.name, 0.0) * batch
        if seconds > plan.longest_call:
            row["left_out"] = f"a call would take about {seconds:.0f} s"
            continue
        with PeakMemory(plan.device) as memory:
            begin = time.perf_counter()
            decoders[method.name] = method.prepare(model, item_tokens, trie)
            row["prepare_s"] = time.perf_counter() - begin
            timed(decoders[method.name], batches[0], plan.device)  # the warm-up
        row["peak_mb"] = memory.bytes / 1e6
    for turn in range(0, len(batches), TURN):
        for row, group in product(rows, batches[turn : turn + TURN]):
            name = row["method"]
            goes_on = sum(row["times"]) < plan.budget and time.monotonic() < plan.ends
            if name in decoders and (goes_on or not row["times"]):
                seconds, answer = timed(decoders[name], group, plan.device)
                row["times"].append(seconds)
                answers[name].append(answer)
    for row in rows:
        if row["times"]:
            expected[row["method"]] = float(np.median(row["times"])) / batch
            row |= figures(row["times"], answers[row["method"]], batch)
        if row["method"] == SAME:
            row["agrees"] = all(
                same_answers(ours, theirs)
                for name in (REFERENCE, MASKED)
                for ours, theirs in zip(answers[SAME], answers[name], strict=False)
            )
    return rows


def figures(times: list[float], answers: list[Decoded], batch: int) -> dict[str, Any]:
    """Return a method's figures from its calls."""
    return {
        "calls": len(times),
        "p50_ms": 1e3 * float(np.percentile(times, 50)),
        "p99_ms": 1e3 * float(np.percentile(times, 99)),
        "requests_per_s": batch / float(np.median(times)),
        "invalid": sum(int((answer.items < 0).sum()) for answer in answers),
        "repeated": sum(
            len(r) - len(set(r.tolist())) for a in answers for r in a.items if (r >= 0).all()
        ),
    }


def ratio(rows: list[dict[str, Any]], slow: str, fast: str) -> float | None:
    """Return how many times longer one method takes than another, by medians over the same calls."""
    times = {row["method"]: row["times"] for row in rows}
    if not times[slow] or not times[fast]:
        return None
    both = min(len(times[slow]), len(times[fast]))
    return float(np.median(times[slow][:both]) / np.median(times[fast][:both]))


HEADER = f"{'':<28}{'calls':>6}{'p50 ms':>10}{'p99 ms':>10}{'req/s':>9}{'invalid':>9}{'peak MB':>9}{'times faster':>14}"


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print a cell of the table; "times faster" is against the reference way."""
    for row in rows:
        if "left_out" in row:
            print(f"{row['method']:<28}{'not run: ' + row['left_out']}", flush=True)
            continue
        faster = ratio(rows, REFERENCE, row["method"])
        print(
            f"{row['method']:<28}{row['calls']:>6}{row['p50_ms']:>10.1f}{row['p99_ms']:>10.1f}"
            f"{row['requests_per_s']:>9.1f}{row['invalid']:>9}{row['peak_mb']:>9.0f}"
            f"{'-' if faster is None else f'{faster:.1f}':>14}",
            flush=True,
        )


def run_table(plan: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every backbone, catalogue and batch; print as it goes, and return the cells."""
    cells = []
    for name in plan.backbones:
        # In little time the slow calls of the small catalogue come last: of these one says enough.
        every = {*plan.catalogues, *(plan.long_catalogues if name == "small" else [])}
        for items in sorted(every, reverse=plan.quick):
            item_tokens = make_catalogue(items, plan.seed)
            begin = time.perf_counter()
            trie = Trie.build(item_tokens).to(plan.device)
            built = time.perf_counter() - begin
            model = make_backbone(name, item_tokens.shape[1], plan.seed, plan.device)
            parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
            print(
                f"\n{name} backbone ({parameters:.1f} M parameters), {items:,} items of {trie.levels} tokens; "
                f"trie: {trie.nodes:,} nodes, {trie.bytes / 1e6:.1f} MB, built in {built:.2f} s"
            )
            expected: dict[str, float] = {}
            kinds = [(batch, None) for batch in plan.batches] if items in plan.catalogues else []
            if name == "small" and items in plan.long_catalogues:
                kinds.append((1, LONG))
            for batch, tokens in kinds:
                print(
                    f"batch {batch}, {'histories of 1 to 20 items' if tokens is None else f'prompts of {tokens} tokens'}"
                )
                print(HEADER)
                rows = measure(
                    model, item_tokens, trie, batch, plan, {} if tokens else expected, tokens
                )
                print_rows(rows)
                cell = {
                    "backbone": name,
                    "items": items,
                    "batch": batch,
                    "prompt_tokens": tokens,
                    "build_s": built,
                }
                cells.append({**cell, "rows": rows})
    return cells


def summary(
    cells: list[dict[str, Any]], parts: dict[str, Any], exact: bool, plan: argparse.Namespace
) -> dict[str, Any]:
    """Return the figures of the last line. The headline ratios are the worst over the catalogues."""

    def worst(batch: int, tokens: int | None, fast: str) -> float | None:
        wanted = ("small", batch, tokens)
        chosen = [c for c in cells if (c["backbone"], c["batch"], c["prompt_tokens"]) == wanted]
        found = [ratio(c["rows"], REFERENCE, fast) for c in chosen]
        return min((r for r in found if r is not None), default=None)

    ours = [row for cell in cells for row in cell["rows"] if row["method"] in OURS and row["times"]]
    free = [row for cell in cells for row in cell["rows"] if row["method"] == FREE and row["times"]]
    agree = all(row["agrees"] for row in ours if "agrees" in row)
    return {
        "speedup_batch8": worst(8, None, DEFAULT),
        "speedup_batch8_same_scores": worst(8, None, SAME),
        "p50_ratio_batch1": worst(1, LONG, DEFAULT),
        "p50_ratio_batch1_bfloat16": worst(1, LONG, HALF),
        "p50_ratio_batch1_same_scores": worst(1, LONG, SAME),
        "p50_ratio_batch1_mixed_lengths": worst(1, None, DEFAULT),
        **{name: value for name, value in parts.items() if name != "gpu"},
        "exact": exact and agree,
        "invalid_items": sum(row["invalid"] + row["repeated"] for row in ours),
        "invalid_items_unconstrained": sum(row["invalid"] for row in free),
        "gpu": parts.get("gpu"),
        "threads": torch.get_num_threads(),
        "seed": plan.seed,
        "cells": [
            {
                **{
                    key: cell[key]
                    for key in ("backbone", "items", "batch", "prompt_tokens", "build_s")
                },
                "methods": [
                    {key: value for key, value in row.items() if key != "times"}
                    for row in cell["rows"]
                ],
            }
            for cell in cells
        ],
    }


def rounded(value: Any) -> Any:
    """Round every figure to four digits, for people's eyes."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the plan of the run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="a part of the table, in less than 50 seconds"
    )
    parser.add_argument("--threads", type=int, help="torch's threads; default: every core")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of weights, catalogues and requests"
    )
    plan = parser.parse_args(arguments)
    if plan.threads:
        torch.set_num_threads(plan.threads)
    plan.device = "cuda" if torch.cuda.is_available() else "cpu"
    if plan.quick:
        plan.backbones, plan.catalogues, plan.batches = ["small"], [10**4], [1, 8]
        plan.long_catalogues = [10**5]
        plan.calls, plan.budget, plan.longest_call, plan.repeats = 16, 1.5, 5.0, 40
        plan.ends = (
            time.monotonic() + 22
        )  # on a busy machine with fewer calls: starting and the parts take time too
    else:
        plan.backbones, plan.catalogues, plan.batches = (
            list(BACKBONES),
            [10**4, 10**5, 10**6],
            [1, 8, 32],
        )
        plan.long_catalogues = [10**5, 10**6]
        plan.calls, plan.budget, plan.longest_call, plan.repeats = 40, 5.0, 30.0, 200
        plan.ends = math.inf
    return plan


def main() -> None:
    """Run the benchmark."""
    plan = parse()
    print(f"{machine()}, {torch.get_num_threads()} threads, float32, 20 beams, seed {plan.seed}")
    exact = exactness(make_backbone, plan)
    print(f"equal to brute force in items, order and scores, with and without filters: {exact}")
    cells = run_table(plan)
    item_tokens = make_catalogue(10**6, plan.seed)
    trie = Trie.build(item_tokens).to(plan.device)
    model = make_backbone("small", item_tokens.shape[1], plan.seed, plan.device)
    prompts = make_prompts(item_tokens, 8, plan.seed)
    parts = step_shares(model, trie, prompts, plan)
    parts |= filter_costs(model, trie, prompts, plan)
    parts |= returning_user(model, trie, item_tokens, prompts, plan)
    if plan.device == "cuda":
        parts["gpu"] = ceilings(
            model, trie, prompts, torch.cuda.get_device_name(), parts["trie_us_per_step"]
        )
    finish(rounded(summary(cells, parts, exact, plan)))


if __name__ == "__main__":
    main()
