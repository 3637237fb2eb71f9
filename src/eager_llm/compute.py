"""Where torch computes, and with what."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def prepare_torch(threads: int = 0) -> str:
    """Set torch's threads and matrix products for this process; return the device that there is.

    Args:
        threads: 0 uses every core.
    """
    import torch

    if threads:
        torch.set_num_threads(threads)
    if torch.cuda.is_available():
        return "cuda"
    _prefer_onednn()
    return "cpu"


def whole_attention(device: str) -> AbstractContextManager:
    """Return a context in which scaled dot-product attention goes through its whole matrix on a CPU.

    torch's fused kernel saves that memory; where sequences are short there is little to save, and on one
    thread its backward pass takes several times as long as plain products do.

    Args:
        device: "cpu" or "cuda", where the fused kernel stays.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext()


def _prefer_onednn() -> None:
    """Take oneDNN's float32 products instead of MKL's, where they are as exact.

    On AVX-512 processors of other makers than MKL's they are twice as fast. torch takes them where it may
    round factors to bfloat16, which oneDNN does on some processors (with matrix units) and not on others:
    which one this is is found out by trying.
    """
    import torch

    before = torch.get_float32_matmul_precision()
    source = torch.Generator().manual_seed(0)
    left, right = torch.randn(256, 256, generator=source), torch.randn(256, 256, generator=source)
    expected = left.double() @ right.double()
    torch.set_float32_matmul_precision("medium")
    if not _close(left @ right, expected):
        torch.set_float32_matmul_precision(before)


def _close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())
