"""Paired comparison of models: by hand, by what must hold, and what is refused."""

import numpy as np
import pytest

from millirec.data.errors import DataError
from millirec.train.compare import METRICS, contrasts, holm


def ranks_of(quality: float, n: int = 300) -> np.ndarray:
    """Ranks of which a share `quality` is 1, the rest 50: the same users are easy for every model."""
    return np.where(np.arange(n) < quality * n, 1, 50)


def test_every_pair_in_every_metric_with_the_difference_of_the_means() -> None:
    models = [ranks_of(0.5), ranks_of(0.4), ranks_of(0.4)]
    found = contrasts(["a", "b", "c"], models, np.arange(300, dtype=np.int32))
    assert [(f.a, f.b, f.metric) for f in found] == [(a, b, m) for m in METRICS for a, b in ("ab", "ac", "bc")]
    first, same = found[0], found[2]
    assert first.difference == pytest.approx(0.1)
    assert first.low > 0
    assert first.p_value < first.p_holm < 0.01
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_pairing_sees_what_the_separate_intervals_cannot() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(1, 200, 500)
    better = np.maximum(base - (rng.random(500) < 0.1) * 5, 1)
    found = contrasts(["better", "base"], [better, base], np.arange(500, dtype=np.int32))
    by_metric = {f.metric: f for f in found}
    assert by_metric["mrr"].p_value < 0.01
    assert by_metric["mrr"].difference < 0.05  # much less than the width of either interval


def test_targets_of_one_user_are_no_independent_facts() -> None:
    users = np.repeat(np.arange(6, dtype=np.int32), 50)
    a, b = np.where(users < 5, 1, 30), np.where(users < 5, 2, 1)
    naive = contrasts(["a", "b"], [a, b], np.arange(300, dtype=np.int32))[0]
    honest = contrasts(["a", "b"], [a, b], users)[0]
    assert naive.p_value < 0.001
    assert honest.p_value > 0.05


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]


def test_other_targets_are_refused() -> None:
    with pytest.raises(DataError, match="different targets"):
        contrasts(["a", "b"], [ranks_of(0.5), ranks_of(0.5, 10)], np.arange(300, dtype=np.int32))
