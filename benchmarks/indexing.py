"""Item indices beside k-means of others: seconds, distortion, balance, collisions, memory.

    python benchmarks/indexing.py            one million vectors of 384 dimensions, about 15 minutes on 2 cores
    python benchmarks/indexing.py --quick    a small size, under 50 seconds

Every method runs in a process of its own on the same file of made-up vectors, whose spectrum and skew
are near those of a text encoder's embeddings of a real catalogue (MiniLM on 4,344 product titles: 68
effective dimensions; unbalanced clusters hold 14 to 28 % more than their share). Peak memory is that
of the process, the mapped file included. Rivals that are not installed are left out and named.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from reporting import finish, machine, show

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

THREADS = min(2, os.cpu_count() or 1)
PATIENCE = 120  # seconds that a slow rival may take before smaller sizes must do
GPU_ITEMS = 10_000_000


def made_up(path: Path, items: int, dim: int, seed: int = 0) -> None:
    """Write unit vectors around 3,000 topics of uneven sizes, with a falling spectrum, float32 [items, dim]."""
    rng = np.random.default_rng(seed)
    rank = min(192, dim)
    basis = (
        rng.normal(size=(rank, dim)) / math.sqrt(dim) * (np.arange(1, rank + 1) ** -0.35)[:, None]
    )
    basis = basis.astype(np.float32)
    topics = rng.standard_normal((3000, rank), dtype=np.float32) @ basis
    share = np.arange(1, 3001) ** -0.6
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(items, dim))
    for start in range(0, items, 1 << 16):
        count = min(1 << 16, items - start)
        part = topics[rng.choice(3000, count, p=share / share.sum())]
        part += 0.9 * rng.standard_normal((count, rank), dtype=np.float32) @ basis
        part += 1.2 / math.sqrt(dim) * rng.standard_normal((count, dim), dtype=np.float32)
        out[start : start + count] = part / np.linalg.norm(part, axis=1, keepdims=True)
    out.flush()


# Each method: points, k, iterations -> labels of the first level, centroids, metadata of its own.
Found = tuple[np.ndarray, np.ndarray, dict[str, Any]]


def ours(path: Path, k: int, iterations: int, precision: str = "bf16", workers: int = 0) -> Found:
    """Build the whole tree to one item a leaf, all levels."""
    from eager_llm.index.build import build_index
    from eager_llm.settings import IndexSettings

    full = max(1, iterations // 5)
    settings = IndexSettings(
        sources=["semantic"], branching=k, iterations=iterations - full, full_iterations=full,
        precision=precision, workers=workers,
    )  # fmt: skip
    item_ids = [str(n) for n in range(len(np.load(path, mmap_mode="r")))]
    started = time.perf_counter()
    index = build_index(item_ids, {"semantic": path}, settings, seed=0)
    seconds = time.perf_counter() - started
    metadata = {
        "seconds": seconds,
        "collisions": len(index.codes) - len(np.unique(index.codes, axis=0)),
        "over_capacity": nodes_over_capacity(index.codes, k),
        "distortions": index.errors.mean(0).tolist(),
    }
    return index.codes[:, 0], index.centroids[0], metadata


def ours_float32(path: Path, k: int, iterations: int) -> Found:
    """Build the whole tree with all products in float32."""
    return ours(path, k, iterations, "float32")


def ours_one_worker(path: Path, k: int, iterations: int) -> Found:
    """Build the whole tree with one Ray worker, started beforehand."""
    return _on_ray(path, k, iterations, 1)


def ours_two_workers(path: Path, k: int, iterations: int) -> Found:
    """Build the whole tree with two Ray workers, started beforehand."""
    return _on_ray(path, k, iterations, 2)


def _on_ray(path: Path, k: int, iterations: int, workers: int) -> Found:
    import torch

    from eager_llm.cluster.local_ray import start_ray

    torch.set_num_threads(workers)  # a core for each worker, and no more for this process
    start_ray(workers)
    few = path.with_name("few.npy")
    np.save(few, np.load(path, mmap_mode="r")[: 2 * k])
    # What a build of next to nothing takes is what starting the workers takes.
    start = ours(few, k, 1, workers=workers)[2]["seconds"]
    labels, centroids, metadata = ours(path, k, iterations, workers=workers)
    return labels, centroids, {**metadata, "start_seconds": start}


def faiss_kmeans(path: Path, k: int, iterations: int, sampled: bool = False) -> Found:
    """faiss's k-means over all points, unbalanced, one level."""
    import faiss

    faiss.omp_set_num_threads(THREADS)
    points = np.load(path)
    most = 256 if sampled else len(points)
    kmeans = faiss.Kmeans(
        points.shape[1], k, niter=iterations, max_points_per_centroid=most, seed=0
    )
    started = time.perf_counter()
    kmeans.train(points)
    labels = kmeans.index.search(points, 1)[1][:, 0]
    return labels, kmeans.centroids, {"seconds": time.perf_counter() - started}


def faiss_sampled(path: Path, k: int, iterations: int) -> Found:
    """faiss's k-means as it is by default: trained on 256 points a centroid."""
    return faiss_kmeans(path, k, iterations, sampled=True)


def faiss_residual(path: Path, k: int, iterations: int) -> Found:
    """Residual k-means with faiss to the depth of our tree: what unbalanced codes collide."""
    import faiss

    from eager_llm.index.tree import tree_height

    faiss.omp_set_num_threads(THREADS)
    points = np.load(path)
    left_over, codes, first = points.copy(), [], None
    started = time.perf_counter()
    for _ in range(tree_height(len(points), k)):
        kmeans = faiss.Kmeans(
            points.shape[1], k, niter=iterations, max_points_per_centroid=256, seed=0
        )
        kmeans.train(left_over)
        codes.append(kmeans.index.search(left_over, 1)[1][:, 0])
        left_over -= kmeans.centroids[codes[-1]]
        first = kmeans.centroids if first is None else first
    seconds = time.perf_counter() - started
    paths = np.stack(codes, axis=1)
    return (
        codes[0],
        first,
        {"seconds": seconds, "collisions": len(paths) - len(np.unique(paths, axis=0))},
    )


def sklearn_minibatch(path: Path, k: int, iterations: int) -> Found:
    """scikit-learn's MiniBatchKMeans, unbalanced, one level."""
    from sklearn.cluster import MiniBatchKMeans

    points = np.load(path)
    kmeans = MiniBatchKMeans(k, batch_size=4096, max_iter=iterations, n_init=1, random_state=0)
    started = time.perf_counter()
    labels = kmeans.fit_predict(points)
    return labels, kmeans.cluster_centers_, {"seconds": time.perf_counter() - started}


def constrained(path: Path, k: int, iterations: int) -> Found:
    """k-means-constrained: exact minimum-cost flow in each iteration, one level."""
    from k_means_constrained import KMeansConstrained

    points = np.load(path)
    most = -(-len(points) // k)
    kmeans = KMeansConstrained(
        k, size_max=most, max_iter=iterations, n_init=1, n_jobs=1, random_state=0
    )
    started = time.perf_counter()
    labels = kmeans.fit_predict(points)
    return labels, kmeans.cluster_centers_, {"seconds": time.perf_counter() - started}


def greedy(path: Path, k: int, iterations: int) -> Found:
    """Equal sizes in the obvious way: k-means, all pairs sorted by distance, a loop in Python; one level."""
    from sklearn.cluster import KMeans

    points = np.load(path)
    most = -(-len(points) // k)
    started = time.perf_counter()
    kmeans = KMeans(k, max_iter=iterations, n_init=1, random_state=0).fit(points)
    distance = kmeans.transform(points)
    labels, size = np.full(len(points), -1), np.zeros(k, dtype=int)
    for pair in np.argsort(distance, axis=None):
        row, column = divmod(int(pair), k)
        if labels[row] < 0 and size[column] < most:
            labels[row] = column
            size[column] += 1
    centroids = np.stack([points[labels == label].mean(0) for label in range(k)])
    return labels, centroids, {"seconds": time.perf_counter() - started}


METHODS = {
    "eager-llm": ours,
    "eager-llm, float32": ours_float32,
    "eager-llm, 1 Ray worker": ours_one_worker,
    "eager-llm, 2 Ray workers": ours_two_workers,
    "faiss k-means, all points": faiss_kmeans,
    "faiss k-means, its default sample": faiss_sampled,
    "faiss residual k-means": faiss_residual,
    "scikit-learn MiniBatchKMeans": sklearn_minibatch,
    "k-means-constrained": constrained,
    "greedy equal sizes": greedy,
}
SLOW = ("k-means-constrained", "greedy equal sizes")
TO_THE_LEAVES = {name for name in METHODS if name.startswith("eager-llm")} | {
    "faiss residual k-means"
}


def nodes_over_capacity(codes: np.ndarray, k: int) -> int:
    """Count the nodes of a tree that hold more than the even share of their parent."""
    over, parent = 0, np.zeros(len(codes), dtype=np.int64)
    for level in range(codes.shape[1]):
        share = -(-np.bincount(parent)[parent] // k)
        parent = np.unique(parent * k + codes[:, level], return_inverse=True)[1]
        size = np.bincount(parent)
        most = np.zeros(len(size), dtype=np.int64)
        most[parent] = share
        over += int((size > most).sum())
    return over


def peak_bytes() -> int:
    """Return the most memory that this process has held (getrusage would count the parent's in)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * next(
        int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")
    )


def run_one(name: str, path: Path, k: int, iterations: int) -> dict[str, Any]:
    """Run a method in this process and return its figures."""
    labels, centroids, metadata = METHODS[name](path, k, iterations)
    peak = peak_bytes()
    points = np.load(path, mmap_mode="r")
    total = sum(
        float(np.square(points[at : at + 8192] - centroids[labels[at : at + 8192]]).sum())
        for at in range(0, len(points), 8192)
    )
    size = np.bincount(labels, minlength=k)
    return {
        "distortion": total / len(points),
        "largest": int(size.max()),
        "smallest": int(size.min()),
        "peak_bytes": peak,
        "data_bytes": points.nbytes,
        **metadata,
    }


def run(
    name: str, path: Path, k: int, iterations: int, limit: float | None = None
) -> dict[str, Any] | None:
    """Run a method in a process of its own; None where it is not installed or takes longer than the limit."""
    command = [sys.executable, __file__, "--one", name, "--data", str(path), "--k", str(k)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    try:
        done = subprocess.run(
            [*command, "--iterations", str(iterations)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        print(f"{name}: not run: {done.stderr.strip().splitlines()[-1]}", flush=True)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def median_run(runs: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return the run of median time; all give the same result."""
    done = sorted((one for one in runs if one), key=lambda one: one["seconds"])
    return done[len(done) // 2] if done else None


def largest_in_time(
    name: str, folder: Path, sizes: list[int], dim: int, k: int, iterations: int
) -> tuple[Any, Path]:
    """Run a slow rival at growing sizes, and return its last run that ended in time."""
    best, where = None, folder
    for size in sizes:
        path = folder / f"{size}.npy"
        if not path.exists():
            made_up(path, size, dim)
        found = run(name, path, k, iterations, PATIENCE)
        if found is None:
            break
        best, where = {**found, "items": size}, path
    return best, where


def row_of(
    name: str, items: int, found: dict[str, Any], against: dict[str, Any] | None
) -> list[Any]:
    """Return a line of the table."""
    return [
        name,
        items,
        "leaves" if name in TO_THE_LEAVES else "one level",
        found["seconds"],
        found["distortion"],
        found["distortion"] / against["distortion"] if against else None,
        found["largest"],
        found["smallest"],
        found.get("collisions"),
        found["peak_bytes"] / 2**30,
        found["peak_bytes"] / found["data_bytes"],
    ]


COLUMNS = (
    "method", "items", "builds", "seconds", "distortion", "to faiss", "largest", "smallest", "collisions",
    "peak GiB", "of the data",
)  # fmt: skip


def gpu_figures(folder: Path, items: int, k: int, iterations: int) -> dict[str, Any] | None:
    """Build on the GPU, and compare the rate of assignment with the card's own matrix products."""
    import torch

    if not torch.cuda.is_available():
        return None
    from eager_llm.index.kmeans import matmul_precision, nearest_labels

    path = folder / "gpu.npy"
    made_up(path, items, 384)
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name(), "items": items}
    points = torch.randn(1 << 20, 384, device="cuda")
    codebook, prices = torch.randn(k, 384, device="cuda"), torch.zeros(k, device="cuda")
    for precision, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        found = run(
            "eager-llm" if precision == "bf16" else "eager-llm, float32", path, k, iterations
        )
        square = torch.randn(8192, 8192, device="cuda", dtype=dtype)
        ceiling = 2 * 8192**3 / _seconds(lambda a=square: a @ a)
        with matmul_precision(precision):
            rate = (
                2
                * len(points)
                * 384
                * k
                / _seconds(lambda: nearest_labels(points, codebook, prices))
            )
        figures[precision] = {
            "seconds": found and found["seconds"], "distortion": found and found["distortion"],
            "assignment_tflops": rate / 1e12, "ceiling_tflops": ceiling / 1e12, "share_of_ceiling": rate / ceiling,
        }  # fmt: skip
    return figures


def _seconds(work: Any, repeats: int = 10) -> float:
    import torch

    work()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / repeats


def main() -> None:
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, under 50 seconds")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--k", type=int, default=256, help="children of a node")
    parser.add_argument(
        "--iterations", type=int, default=20, help="of the first level, for every method"
    )
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run_one(arguments.one, arguments.data, arguments.k, arguments.iterations)))
        return
    dim, k, iterations = 384, arguments.k, arguments.iterations
    sizes, slow_sizes, slow_k = (
        [10_000, 100_000, 1_000_000],
        [8_000, 16_000, 24_000, 28_000, 32_000],
        k,
    )
    if arguments.quick:
        k, iterations, sizes, slow_sizes, slow_k = 64, 8, [10_000, 140_000], [1_000], 16
    print(
        f"{machine()}; {THREADS} threads, {dim} dimensions, k = {k}, {iterations} iterations, seed 0"
    )
    with tempfile.TemporaryDirectory(prefix="indexing-") as name:
        figures = compare(
            Path(name), sizes, slow_sizes, slow_k, dim, k, iterations, arguments.quick
        )
        figures["gpu"] = gpu_figures(
            Path(name), 1_000_000 if arguments.quick else GPU_ITEMS, k, iterations
        )
    if figures["gpu"] is None:
        print("\nno GPU here: the GPU part of this benchmark was not run")
    finish(figures)


def compare(
    folder: Path,
    sizes: list[int],
    slow_sizes: list[int],
    slow_k: int,
    dim: int,
    k: int,
    iterations: int,
    quick: bool,
) -> dict[str, Any]:
    """Run all methods at the largest size, ours at all sizes, and the slow rivals as far as they get."""
    for size in sizes:
        made_up(folder / f"{size}.npy", size, dim)
    path = folder / f"{sizes[-1]}.npy"
    fast = [name for name in METHODS if name not in SLOW]
    # By turns, so that what else the machine does falls on all alike.
    rounds = [
        {name: run(name, path, k, iterations) for name in fast} for _ in range(1 if quick else 3)
    ]
    found = {name: median_run([one[name] for one in rounds]) for name in fast}
    peer = found["faiss k-means, all points"]
    rows = [row_of(name, sizes[-1], result, peer) for name, result in found.items() if result]
    title = f"{sizes[-1]:,} items, k = {k}, median of {len(rounds)}"
    show(f"{title}; 'to faiss' is the distortion over that of faiss on all points", COLUMNS, rows)
    growth = [
        (size, run("eager-llm", folder / f"{size}.npy", k, iterations)) for size in sizes[:-1]
    ]
    growth.append((sizes[-1], found["eager-llm"]))
    lines = [
        [size, result["seconds"], 1e6 * result["seconds"] / size]
        for size, result in growth
        if result
    ]
    show("Time against items, to the leaves", ("items", "seconds", "microseconds an item"), lines)
    slow_rows, speedup = [], None
    for name in SLOW:
        slow, where = largest_in_time(name, folder, slow_sizes, dim, slow_k, iterations)
        if slow:
            mine, free = (
                run(n, where, slow_k, iterations)
                for n in ("eager-llm", "faiss k-means, all points")
            )
            slow_rows += [
                row_of(n, slow["items"], r, free)
                for n, r in ((name, slow), ("eager-llm", mine))
                if r
            ]
            if name == "k-means-constrained" and mine:
                speedup = slow["seconds"] / mine["seconds"]
    show(
        f"Slow rivals at the largest size that ends in {PATIENCE} seconds, k = {slow_k}",
        COLUMNS,
        slow_rows,
    )
    best, one, two = (
        found[n] for n in ("eager-llm", "eager-llm, 1 Ray worker", "eager-llm, 2 Ray workers")
    )
    if best is None:
        raise SystemExit("our own build failed: there is nothing to compare")
    return {
        "items": sizes[-1],
        "quick": quick,
        "time_ratio_faiss": peer and best["seconds"] / peer["seconds"],
        "distortion_ratio_faiss": peer and best["distortion"] / peer["distortion"],
        "over_capacity": best["over_capacity"],
        "collisions": best["collisions"],
        "peak_memory_ratio": best["peak_bytes"] / best["data_bytes"],
        "speedup_vs_constrained": speedup,
        "worker_speedup": one and two and one["seconds"] / two["seconds"],
        "worker_start_seconds": two and two["start_seconds"],
    }


if __name__ == "__main__":
    main()
