"""Intervals and paired differences: known spread, coverage, reproducibility, refusals."""

import itertools

import numpy as np
import pytest

from millirec.data.errors import DataError
from millirec.metrics import bootstrap


def test_interval_has_the_width_that_theory_says() -> None:
    values = np.random.default_rng(0).standard_normal(2500) + 1
    mean, low, high = bootstrap.confidence_interval(values, n=2000)
    assert mean == pytest.approx(values.mean())
    half = 1.96 * values.std() / 50
    assert mean - low == pytest.approx(half, rel=0.1)
    assert high - mean == pytest.approx(half, rel=0.1)
    narrow = bootstrap.confidence_interval(values, level=0.5, n=2000)
    assert narrow.high - narrow.low < (high - low) / 2


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for seed in range(200):
        _, low, high = bootstrap.confidence_interval(rng.random(80) < 0.3, level=0.9, n=300, seed=seed)
        inside += low <= 0.3 <= high
    assert 160 <= inside <= 198


def test_same_seed_same_interval_also_when_cut_into_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(500)
    whole = bootstrap.confidence_interval(values, seed=4)
    assert bootstrap.confidence_interval(values, seed=4) == whole
    assert bootstrap.confidence_interval(values, seed=5) != whole
    monkeypatch.setattr(bootstrap, "_CHUNK", 600)  # one resample at a time
    assert bootstrap.confidence_interval(values, seed=4) == pytest.approx(whole, rel=1e-12)  # sums round otherwise


def test_one_user_has_no_spread() -> None:
    assert bootstrap.confidence_interval(np.array([0.25])) == (0.25, 0.25, 0.25)


def test_p_value_against_all_sign_flips() -> None:
    difference = np.array([0.3, 0.1, -0.05, 0.2, 0.15, 0.0, 0.4, -0.1])
    flips = [abs(np.dot(signs, difference)) for signs in itertools.product([-1, 1], repeat=8)]
    exact = np.mean([flip >= abs(difference.sum()) - 1e-12 for flip in flips])
    found = bootstrap.paired_difference(difference, np.zeros(8), n=20_000)
    assert found.p_value == pytest.approx(exact, abs=0.01)
    assert found.mean == pytest.approx(difference.mean())
    assert found.low < found.mean < found.high


def test_a_clear_difference_and_none() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(400)
    better = bootstrap.paired_difference(a + 0.1 + 0.1 * rng.random(400), a)
    assert better.p_value == pytest.approx(1 / 1001)
    assert better.low > 0
    same = bootstrap.paired_difference(a, a)
    assert same == (0, 0, 0, 1)
    noise = bootstrap.paired_difference(a, rng.permutation(a))
    assert noise.p_value > 0.05


def test_columns_get_the_intervals_that_they_get_alone() -> None:
    columns = np.random.default_rng(3).random((300, 4))
    together = bootstrap.confidence_intervals(columns, seed=2)
    for column, interval in zip(columns.T, together, strict=True):
        assert bootstrap.confidence_interval(column, seed=2) == pytest.approx(interval, rel=1e-12)


def test_many_values_of_few_users_do_not_make_an_interval_narrow() -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(50), 40)
    values = np.repeat(rng.standard_normal(50), 40)  # all of a user's values are the same: 50 facts, not 2,000
    naive = bootstrap.confidence_interval(values)
    honest = bootstrap.confidence_interval(values, groups=users)
    alone = bootstrap.confidence_interval(values[::40])
    assert honest == pytest.approx(alone, rel=1e-12)
    assert honest.high - honest.low > 4 * (naive.high - naive.low)
    assert bootstrap.paired_difference(values, 0 * values, groups=users).p_value == pytest.approx(
        bootstrap.paired_difference(values[::40], np.zeros(50)).p_value
    )


def test_users_weigh_as_many_values_as_they_have() -> None:
    values, users = np.array([1.0, 1.0, 1.0, 0.0]), np.array([7, 7, 7, 3])
    assert bootstrap.confidence_interval(values, groups=users) == (0.75, 0.0, 1.0)
    with pytest.raises(DataError, match="3 users for 4 values"):
        bootstrap.confidence_interval(values, groups=users[:3])


@pytest.mark.parametrize("values", [[], [0.1, float("nan")], [[0.1], [0.2]]])
def test_what_has_no_interval_is_refused(values: list[float]) -> None:
    with pytest.raises(DataError):
        bootstrap.confidence_interval(np.array(values))


def test_other_users_are_not_compared() -> None:
    with pytest.raises(DataError, match="same users"):
        bootstrap.paired_difference(np.zeros(3), np.zeros(4))


def test_ratio_of_models_that_differ_by_a_factor_has_no_spread() -> None:
    b = np.random.default_rng(0).random(50)
    assert bootstrap.paired_ratio(0.9 * b, b) == pytest.approx((0.9, 0.9, 0.9))


def test_ratio_interval_has_the_width_that_theory_says() -> None:
    """Means 1, deviations 0.1, independent: the ratio of the means of 2,500 deviates by 0.1 * 2 ** 0.5 / 50."""
    rng = np.random.default_rng(0)
    a, b = 1 + 0.1 * rng.standard_normal((2, 2500))
    mean, low, high = bootstrap.paired_ratio(a, b, n=2000)
    assert mean == pytest.approx(a.mean() / b.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * 0.1 * 2**0.5 / 50, rel=0.1)


def test_ratio_draws_whole_users_and_stands_zeros() -> None:
    a, b = np.array([1.0, 1, 0, 0]), np.array([1.0, 1, 1, 1])
    users = np.array([1, 1, 2, 2])
    assert bootstrap.paired_ratio(a, b, groups=users) == (0.5, 0, 1)
    assert bootstrap.paired_ratio(np.zeros(2), np.array([0.0, 1])).high == 1  # both score nothing: nothing is lost
    assert bootstrap.paired_ratio(np.ones(2), np.array([0.0, 1])).high == np.inf
    with pytest.raises(DataError, match="0 on all"):
        bootstrap.paired_ratio(np.ones(2), np.zeros(2))
