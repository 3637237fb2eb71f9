"""Where torch computes, and with which kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# Entries of one head's attention matrices over a batch, up to which they may be in memory.
MAX_ATTENTION_ENTRIES = 1 << 20


def prepare_torch(threads: int = 0) -> str:
    """Set torch's threads for this process, and return the device that there is.

    Args:
        threads: 0 uses every core.

    Returns:
        "cuda" or "cpu".
    """
    import torch

    if threads:
        torch.set_num_threads(threads)
    if torch.cuda.is_available():
        return "cuda"
    return "cpu"


@contextmanager
def fast_cpu_kernels(device: str, rows: int, tokens: int) -> Iterator[None]:
    """Speed up the forward and backward pass of short sequences on a CPU, without loss of accuracy.

    float32 products are then oneDNN's, where these are exact to float32, and attention goes through
    its whole matrix: torch's fused kernel is made of many small products, with which oneDNN is slow.

    Args:
        device: "cpu", or another, where everything stays as it is.
        rows: sequences of the batch.
        tokens: of the longest of them.
    """
    fits = rows * tokens**2 <= MAX_ATTENTION_ENTRIES
    if device != "cpu" or not fits or not onednn_is_exact():
        yield
        return
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


@cache
def onednn_is_exact() -> bool:
    """Try whether oneDNN's products on this processor are exact to float32.

    Where torch may round factors to bfloat16, it hands products to oneDNN. That rounds where the
    processor has matrix units for bfloat16, and nowhere else.

    Returns:
        True where oneDNN computes the products, and does not round.
    """
    import torch

    precision = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(256, 256, generator=generator)
    right = torch.randn(256, 256, generator=generator)
    exact = left.double() @ right.double()
    torch.set_float32_matmul_precision("highest")
    usual = left @ right
    torch.set_float32_matmul_precision("medium")
    try:
        candidate = left @ right
    finally:
        torch.set_float32_matmul_precision(precision)
    if torch.equal(candidate, usual):
        # Equal to the bit, they are the same products.
        return False
    error = (candidate - exact).abs().max()
    return bool(error <= 1e-5 * exact.abs().max())
