"""Metrics of predicted probabilities (click-through rate): AUC, log loss, calibration error, Brier score.

`labels` (n,) holds 0 and 1 (or booleans); `probabilities` (n,) lies in [0, 1] without NaN, else DataError.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from millirec.data.errors import DataError

Array = NDArray[Any]


def auc(labels: Array, scores: Array) -> float:
    """Probability that a positive scores above a negative, ties counting one half (the rank-sum form).

    Any real scores will do; NaN sinks below everything and ties with NaN. Raises DataError when only one
    class is there, since no pair can be compared then.
    """
    y = _labels(labels, scores)
    positives = int(y.sum())
    negatives = len(y) - positives
    if not positives or not negatives:
        raise DataError("AUC of labels that are all the same", "score both positive and negative examples")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    if np.isnan(scores).any():  # NumPy sorts NaN to the top, in one group: the last
        inverse = (inverse + 1) % len(counts)
        counts = np.roll(counts, 1)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_rank[inverse][y].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def log_loss(labels: Array, probabilities: Array, eps: float = 1e-15) -> float:
    """Mean negative log likelihood in nats; probabilities are kept `eps` away from 0 and 1."""
    y = _labels(labels, probabilities)
    p = np.clip(_probabilities(probabilities), eps, 1 - eps)
    return float(-np.where(y, np.log(p), np.log1p(-p)).mean())


def brier(labels: Array, probabilities: Array) -> float:
    """Mean squared difference between the probability and what happened."""
    y = _labels(labels, probabilities)
    return float(np.square(_probabilities(probabilities) - y).mean())


def calibration_error(labels: Array, probabilities: Array, bins: int = 20) -> float:
    """Expected calibration error over `bins` bins of equal mass: mean |mean probability - mean label|.

    Equal-mass bins: Nguyen and O'Connor, EMNLP 2015. Examples with equal probabilities share their mean label
    before they are cut into bins, so the order of the examples has no effect.
    """
    y = _labels(labels, probabilities)
    p = _probabilities(probabilities)
    _, inverse, counts = np.unique(p, return_inverse=True, return_counts=True)
    shared = (np.bincount(inverse, weights=y) / counts)[inverse]
    gap = (p - shared)[np.argsort(p, kind="stable")]
    parts = np.array_split(gap, min(bins, len(gap)))
    return float(sum(abs(part.sum()) for part in parts) / len(gap))


def _labels(labels: Array, scores: Array) -> NDArray[np.bool_]:
    y = np.asarray(labels)
    if y.ndim != 1 or y.shape != np.shape(scores) or not len(y):
        raise DataError(f"labels {y.shape} against scores {np.shape(scores)}", "give one of each an example")
    if not np.isin(y, (0, 1)).all():
        raise DataError("labels other than 0 and 1", "turn ratings into clicks first")
    return y.astype(np.bool_)


def _probabilities(probabilities: Array) -> NDArray[np.float64]:
    p = np.asarray(probabilities, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise DataError("probabilities outside [0, 1] or NaN", "apply the sigmoid first")
    return p
