"""Where torch computes, and with what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# Entries of a batch's attention matrices, of one head, up to which they may be in memory.
ENTRIES = 1 << 20


def prepare_torch(threads: int = 0) -> str:
    """Set torch's threads for this process, and return the device that there is.

    Args:
        threads: 0 uses every core.
    """
    import torch

    if threads:
        torch.set_num_threads(threads)
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def quick_products(device: str, rows: int, tokens: int) -> Iterator[None]:
    """Compute the forward and backward pass of short sequences the quick way on a CPU, as exactly.

    float32 products are then oneDNN's, where these are exact to float32, and attention goes through
    its whole matrix: torch's fused kernel is made of many small products, with which oneDNN is slow.

    Args:
        device: "cpu", or another, where everything stays as it is.
        rows: sequences of the batch.
        tokens: of the longest of them.
    """
    if device != "cpu" or rows * tokens**2 > ENTRIES or not onednn_is_exact():
        yield
        return
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def onednn_is_exact() -> bool:
    """Return whether torch has products by oneDNN on this processor that are exact to float32, by trying.

    torch takes them where it allows factors rounded to bfloat16, which oneDNN does where there are matrix
    units for it, and not elsewhere.
    """
    import torch

    before = torch.get_float32_matmul_precision()
    source = torch.Generator().manual_seed(0)
    left, right = torch.randn(256, 256, generator=source), torch.randn(256, 256, generator=source)
    exact = left.double() @ right.double()
    torch.set_float32_matmul_precision("highest")
    usual = left @ right
    torch.set_float32_matmul_precision("medium")
    try:
        found = left @ right
        # Equal to the bit, they are the same products.
        return bool((found - exact).abs().max() <= 1e-5 * exact.abs().max()) and not torch.equal(
            found, usual
        )
    finally:
        torch.set_float32_matmul_precision(before)
