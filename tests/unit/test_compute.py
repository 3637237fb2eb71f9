"""Quicker products and attention change nothing but the time."""

import pytest
import torch

from eager_llm.core import compute
from eager_llm.core.compute import MAX_ATTENTION_ENTRIES, fast_cpu_kernels, onednn_is_exact


def gradients(query, key, value, weight):
    states = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    found = torch.nn.functional.linear(states, weight).square().sum()
    return found.detach(), *torch.autograd.grad(found, (query, key, value, weight))


def test_the_quick_way_is_as_exact():
    generator = torch.Generator().manual_seed(2)
    exact = [torch.randn(2, 3, 17, 32, generator=generator, dtype=torch.float64) for _ in range(3)]
    exact.append(torch.randn(40, 32, generator=generator, dtype=torch.float64))
    expected = gradients(*(tensor.requires_grad_() for tensor in exact))
    rounded = [tensor.detach().float().requires_grad_() for tensor in exact]
    before = torch.get_float32_matmul_precision()
    with fast_cpu_kernels("cpu", 2, 17):
        found = gradients(*rounded)
    assert torch.get_float32_matmul_precision() == before
    for one, other in zip(found, expected, strict=True):
        # Factors rounded to bfloat16 would be off by a hundred times this.
        assert (one - other).abs().max() < 2e-5 * other.abs().max()


@pytest.mark.parametrize(
    ("device", "rows", "exact"),
    [("cuda", 10, True), ("cpu", MAX_ATTENTION_ENTRIES // 100 + 1, True), ("cpu", 10, False)],
)
def test_elsewhere_everything_stays_as_it_is(device, rows, exact, monkeypatch):
    monkeypatch.setattr(compute, "onednn_is_exact", lambda: exact)
    before = torch.get_float32_matmul_precision()
    with fast_cpu_kernels(device, rows, 10):
        assert torch.get_float32_matmul_precision() == before
        assert torch.backends.cuda.flash_sdp_enabled()


def test_it_is_restored_after_an_error_and_trying_leaves_nothing():
    before = torch.get_float32_matmul_precision()
    onednn_is_exact.cache_clear()
    onednn_is_exact()
    with pytest.raises(KeyboardInterrupt), fast_cpu_kernels("cpu", 1, 1):
        raise KeyboardInterrupt
    assert torch.get_float32_matmul_precision() == before
    assert torch.backends.cuda.flash_sdp_enabled()
