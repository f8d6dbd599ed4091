"""Metrics of probabilities: by hand and by brute force."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from millirec.data.errors import DataError
from millirec.metrics import ctr


def test_auc_by_hand() -> None:
    # pairs (positive, negative): .8>.4, .8>.6, .4=.4, .4<.6 -> 2.5 of 4
    assert ctr.auc(np.array([1, 0, 1, 0]), np.array([0.8, 0.4, 0.4, 0.6])) == 2.5 / 4


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.9, float("nan")])), min_size=2))
def test_auc_counts_every_pair(pairs: list[tuple[bool, float]]) -> None:
    labels = np.array([label for label, _ in pairs])
    assume(labels.any() and not labels.all())
    scores = np.array([score for _, score in pairs])
    sunk = np.where(np.isnan(scores), -1.0, scores)
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p in sunk[labels] for n in sunk[~labels]]
    assert ctr.auc(labels, scores) == pytest.approx(sum(wins) / len(wins))


def test_auc_needs_both_classes() -> None:
    with pytest.raises(DataError, match="all the same"):
        ctr.auc(np.ones(3), np.array([0.1, 0.2, 0.3]))


def test_log_loss_and_brier_by_hand() -> None:
    labels, p = np.array([1, 0]), np.array([0.8, 0.4])
    assert ctr.log_loss(labels, p) == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)
    assert ctr.brier(labels, p) == pytest.approx((0.04 + 0.16) / 2)
    assert ctr.log_loss(np.array([1]), np.array([0.0])) == pytest.approx(-math.log(1e-15))
    assert ctr.log_loss(np.array([0, 1]), np.array([0.0, 1.0])) == pytest.approx(0, abs=1e-12)


def test_calibration_by_hand() -> None:
    # two bins of two: |0.2 - 0.5| and |0.7 - 1.0|
    labels, p = np.array([0, 1, 1, 1]), np.array([0.1, 0.3, 0.6, 0.8])
    assert ctr.calibration_error(labels, p, bins=2) == pytest.approx(0.3)


def test_calibration_does_not_see_the_order_of_equal_predictions() -> None:
    labels, p = np.array([1, 1, 0, 0]), np.full(4, 0.5)
    assert ctr.calibration_error(labels, p, bins=2) == pytest.approx(0)
    assert ctr.calibration_error(labels[::-1], p, bins=4) == pytest.approx(0)


@pytest.mark.parametrize("p", [[0.5, 1.2], [0.5, -0.1], [0.5, float("nan")]])
def test_what_is_no_probability_is_refused(p: list[float]) -> None:
    for metric in (ctr.log_loss, ctr.brier, ctr.calibration_error):
        with pytest.raises(DataError, match="outside"):
            metric(np.array([0, 1]), np.array(p))


@pytest.mark.parametrize(("labels", "p"), [([0, 1], [0.1]), ([], []), ([0, 2], [0.1, 0.2]), ([[0, 1]], [[0.1, 0.2]])])
def test_labels_that_do_not_fit_are_refused(labels: list[int], p: list[float]) -> None:
    with pytest.raises(DataError, match="labels"):
        ctr.auc(np.array(labels), np.array(p))
