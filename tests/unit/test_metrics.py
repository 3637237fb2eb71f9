import numpy as np
import pytest

from eager_llm.evaluation.baselines import Cooccurrence, Popularity
from eager_llm.evaluation.metrics import ranking_metrics


def test_a_table_worked_by_hand():
    ranked = [list("abcdefghij"), list("abcdefghij"), list("abcdefghij"), list("abcdefghij")]
    found = ranking_metrics(ranked, ["a", "c", "j", "z"])
    # Places 1, 3, 10 and none: 1/log2(2) = 1, 1/log2(4) = 0.5, 1/log2(11) = 0.289065.
    assert found["recall@1"] == 0.25
    assert found["recall@5"] == 0.5
    assert found["recall@10"] == 0.75
    assert found["ndcg@1"] == 0.25
    assert found["ndcg@5"] == pytest.approx(0.375)
    assert found["ndcg@10"] == pytest.approx((1 + 0.5 + 0.2890648) / 4)


def test_co_occurrence_worked_by_hand():
    # 0 -> 1 at gap 1 twice, 0 -> 2 at gap 2 once; the last item 0 counts fully.
    method = Cooccurrence([[0, 1, 2], [0, 1], [3, 3, 3, 3]], 5, seed=0)
    assert method.counts[0, 1] == 2
    assert method.counts[0, 2] == 0.5
    # With history [3, 0] the evidence of 3 (count 3 + 2/2 + 1/3) is halved, and still wins.
    assert method.rank([[3, 0]], 3)[0].tolist() == [3, 1, 2]
    assert method.rank([[0]], 2)[0].tolist() == [1, 2]


def test_popularity_breaks_ties_by_chance_not_by_number():
    orders = {tuple(Popularity([[0, 1, 2, 3]], 4, seed).rank([[]], 4)[0]) for seed in range(20)}
    assert len(orders) > 5
    assert Popularity([[2, 2, 1]], 4, 0).rank([[]], 2)[0].tolist() == [2, 1]


def test_what_no_count_decides_popularity_does():
    method = Cooccurrence([[0, 1], [2, 2, 2]], 4, seed=0)
    assert method.rank([[]], 1)[0].tolist() == [2]
    assert np.all(method.rank([[], [0]], 1)[:, 0] == [2, 1])
