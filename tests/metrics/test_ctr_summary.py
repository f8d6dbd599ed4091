"""Intervals of chances against resampling as it is told in a book."""

import numpy as np
import pytest

from millirec.data.errors import DataError
from millirec.metrics import ctr
from millirec.metrics.ctr_summary import auc_interval, losses, resampled_aucs, summarise_chances


def rows(n: int = 200, people: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, n)
    scores = np.round(np.clip(0.3 * labels + rng.random(n) * 0.7, 0, 1), 2)  # ties
    return labels, scores, rng.integers(0, people, n)


def test_the_interval_is_that_of_resampled_people() -> None:
    labels, scores, users = rows()
    _, people = np.unique(users, return_inverse=True)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        drawn = rng.integers(0, people.max() + 1, people.max() + 1)
        copies = np.concatenate([np.flatnonzero(people == person) for person in drawn])
        found.append(ctr.auc(labels[copies], scores[copies]))
    expected = np.quantile(found, [0.025, 0.975])
    assert auc_interval(labels, scores, users, n=60) == pytest.approx(tuple(expected))


def test_resamples_without_both_labels_are_left_out() -> None:
    low, high = auc_interval(np.array([1, 0, 1]), np.array([0.9, 0.1, 0.2]), np.array([1, 2, 3]), n=200)
    assert (low, high) == (1, 1)


def test_resamples_of_two_rankers_are_the_same_people() -> None:
    """So a ranker that is a little worse for everybody is worse in every draw."""
    labels, scores, users = rows()
    better = resampled_aucs(labels, scores + 0.2 * labels, users, n=50)
    same = resampled_aucs(labels, 3 * scores, users, n=50)
    assert (better > same).all()
    assert (same == resampled_aucs(labels, scores, users, n=50)).all()
    assert np.isnan(resampled_aucs(np.array([1, 0]), np.array([0.2, 0.1]), np.array([1, 2]), n=50)).any()


def test_the_summary_says_what_the_metrics_say() -> None:
    labels, scores, users = rows()
    figures = summarise_chances(labels, scores, users)
    assert figures["auc"].value == ctr.auc(labels, scores)
    assert figures["log_loss"].value == pytest.approx(ctr.log_loss(labels, scores))
    assert figures["brier"].value == pytest.approx(ctr.brier(labels, scores))
    assert figures["calibration_error"].value == ctr.calibration_error(labels, scores)
    assert losses(labels, scores).mean() == pytest.approx(ctr.log_loss(labels, scores))
    for name in ("auc", "log_loss", "brier"):
        assert figures[name].low < figures[name].value < figures[name].high


def test_labels_of_one_kind_are_refused() -> None:
    with pytest.raises(DataError, match="all the same"):
        auc_interval(np.ones(3), np.arange(3), np.arange(3))
