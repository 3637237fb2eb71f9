"""Faster products and attention change nothing but the time."""

import pytest
import torch

from eager_llm import compute
from eager_llm.compute import prepare_torch, whole_attention


@pytest.fixture(autouse=True)
def _as_it_was():
    before = torch.get_float32_matmul_precision(), torch.get_num_threads()
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.set_num_threads(before[1])


def test_products_stay_exact_to_float32():
    torch.set_float32_matmul_precision("highest")
    device = prepare_torch(1)
    assert device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert torch.get_num_threads() == 1
    generator = torch.Generator().manual_seed(1)
    states, weight = torch.randn(300, 130, generator=generator), torch.randn(70, 130, generator=generator)
    exact = states.double() @ weight.double().T
    # Factors rounded to bfloat16 would be off by more than a hundred times this.
    assert (torch.nn.functional.linear(states, weight) - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.skipif(torch.cuda.is_available(), reason="of processors alone")
def test_where_factors_would_be_rounded_products_stay_as_they_were(monkeypatch):
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(compute, "_close", lambda found, expected: False)
    prepare_torch()
    assert torch.get_float32_matmul_precision() == "highest"


def test_attention_through_its_matrix_is_the_same():
    generator = torch.Generator().manual_seed(2)
    query, key, value = (torch.randn(2, 3, 17, 8, generator=generator, requires_grad=True) for _ in range(3))

    def gradients():
        found = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return found.detach(), *torch.autograd.grad(found.square().sum(), (query, key, value))

    expected = gradients()
    with whole_attention("cpu"):
        found = gradients()
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
