"""The paired bootstrap against what can be worked out by hand."""

import numpy as np
import pytest

from eager_llm.evaluation.paired import paired_difference


def test_the_same_differs_by_nothing():
    values = np.random.default_rng(0).random(50)
    found = paired_difference(values, values, np.ones(50), np.arange(50), 200, 0.95, 0)
    assert (found.value, found.low, found.high, found.units) == (0.0, 0.0, 0.0, 50)


def test_the_bounds_are_those_of_the_normal_distribution_for_many_units():
    rng = np.random.default_rng(1)
    first, second = rng.normal(1.0, 0.5, 4000), rng.normal(0.9, 0.5, 4000)
    found = paired_difference(first, second, np.ones(4000), np.arange(4000), 4000, 0.95, 0)
    error = np.std(first - second, ddof=1) / np.sqrt(4000)
    assert found.value == pytest.approx(np.mean(first - second))
    assert found.low == pytest.approx(found.value - 1.645 * error, abs=0.1 * error)
    assert found.high == pytest.approx(found.value + 1.645 * error, abs=0.1 * error)


def test_pairs_tell_more_than_either_alone_and_cases_of_a_unit_tell_less_than_cases_by_themselves():
    rng = np.random.default_rng(2)
    skill = rng.normal(0, 1.0, 400)
    first, second = skill + 0.1 + rng.normal(0, 0.1, 400), skill + rng.normal(0, 0.1, 400)
    ones = np.ones(400)
    paired = paired_difference(first, second, ones, np.arange(400), 1000, 0.95, 0)
    apart = paired_difference(first, rng.permutation(second), ones, np.arange(400), 1000, 0.95, 0)
    assert paired.low > 0 > apart.low
    repeated = [np.repeat(one[:40], 10) for one in (first, second)]
    lone = paired_difference(*repeated, ones, np.arange(400), 1000, 0.95, 0)
    grouped = paired_difference(*repeated, ones, np.repeat(np.arange(40), 10), 1000, 0.95, 0)
    assert grouped.units == 40
    assert grouped.high - grouped.low > 2 * (lone.high - lone.low)


def test_a_unit_counts_by_its_size():
    found = paired_difference(
        np.array([2.0, 9.0]), np.array([1.0, 3.0]), np.array([1.0, 3.0]), np.arange(2), 100, 0.9, 0
    )
    assert (found.first, found.second, found.value) == (11 / 4, 4 / 4, 7 / 4)
