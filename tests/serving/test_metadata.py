"""What the service tells of itself: all of the model's parameters, computed once."""

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from starlette.testclient import TestClient
from transformers import LlamaConfig, LlamaForCausalLM

from eager_llm.bundle.bundle import Bundle
from eager_llm.decoding.inference_weights import PackedLinear, optimize_for_inference
from serving.answers import Answers
from serving.decoder import Decoder
from serving.metadata import bundle_metadata, parameter_count
from serving.routes import new_app
from serving.settings import ServiceSettings


@pytest.fixture(scope="module")
def bundle(run):
    return Bundle.load(run.folder / "bundle")


def small_llama(tied):
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("tied", [True, False])
def test_packed_weights_are_counted_and_tied_ones_once(tied, monkeypatch):
    # Embedding (and head), final norm; per layer 4 attention, 3 MLP matrices and 2 norms.
    layer = 4 * 16 * 16 + 3 * 16 * 32 + 2 * 16
    expected = (1 if tied else 2) * 50 * 16 + 16 + 2 * layer
    assert parameter_count(small_llama(tied)) == expected
    fast = optimize_for_inference(small_llama(tied).eval())
    assert parameter_count(fast) == expected
    if PackedLinear.possible(torch.float32):
        assert sum(weight.numel() for weight in fast.parameters()) < expected
    monkeypatch.setattr(PackedLinear, "possible", staticmethod(lambda dtype: False))
    assert parameter_count(optimize_for_inference(small_llama(tied).eval())) == expected


def test_a_bundle_tells_all_parameters_of_its_backbone(bundle):
    stored = load_file(bundle.folder / "backbone" / "model.safetensors")
    expected = sum(weight.numel() for weight in stored.values())
    assert bundle_metadata(bundle).parameters == expected


def test_the_metadata_is_computed_once_before_the_first_request(bundle, monkeypatch):
    settings = ServiceSettings(bundle="-", describe=False)
    decoder = Decoder(bundle, settings)
    app = new_app()
    app.state.answers = Answers({"first": decoder}, None, settings)

    def compute(*_):
        raise AssertionError("a request computes the metadata again")

    monkeypatch.setattr(pd.Series, "value_counts", compute)
    monkeypatch.setattr(type(bundle.recommender.model), "parameters", compute)
    with TestClient(app) as client:
        first, second = client.get("/info").json(), client.get("/info").json()
    assert first == second
    assert first["first"]["items"] == len(bundle.items)
    assert (first["second"], first["users"], first["describe"]) == (None, False, False)
    decoder.close()
