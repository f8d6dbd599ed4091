"""All figures of predicted chances, with bootstrap intervals over the users."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from millirec.metrics import ctr
from millirec.metrics.bootstrap import confidence_intervals
from millirec.metrics.summary import Figure

Array = NDArray[Any]
_RESAMPLES = 1000


def summarise_chances(labels: Array, chances: Array, users: Array) -> dict[str, Figure]:
    """`auc`, `log_loss`, `brier` with 95 % intervals, and `calibration_error`; labels, chances and users (n,).

    Users are drawn, each with all of his rows. Raises DataError for labels of one kind, and for what is no chance.
    """
    columns = np.stack([losses(labels, chances), np.square(chances - labels)], axis=1)
    log_loss, brier = confidence_intervals(columns, n=_RESAMPLES, groups=users)
    low, high = auc_interval(labels, chances, users)
    return {
        "auc": Figure(ctr.auc(labels, chances), low, high),
        "log_loss": Figure(*log_loss),
        "brier": Figure(*brier),
        "calibration_error": Figure(ctr.calibration_error(labels, chances)),
    }


def auc_interval(
    labels: Array, scores: Array, users: Array, level: float = 0.95, n: int = _RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """The ends of the percentile bootstrap interval of `ctr.auc`; resamples draw users.

    Resamples without both labels are left out.
    """
    found = resampled_aucs(labels, scores, users, n, seed)
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampled_aucs(
    labels: Array, scores: Array, users: Array, n: int = _RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """`ctr.auc` of `n` resamples of the users, each with all of his rows, (n,); NaN where one has not both labels.

    The same seed and users are the same draws, so those of two rankers are paired. Rows are sorted once: a resample
    gives each row a weight, and the AUC of weighted rows is a sum over distinct scores.
    """
    ctr.auc(labels, scores)  # refuses what cannot be compared
    _, rank = np.unique(scores, return_inverse=True)
    order = np.argsort(rank, kind="stable")
    starts = np.flatnonzero(np.diff(rank[order], prepend=-1))
    _, user = np.unique(users, return_inverse=True)
    user, positive = user[order], np.asarray(labels)[order].astype(np.float64)
    rng, people = np.random.default_rng(seed), int(user.max()) + 1
    found = np.full(n, np.nan)
    for i in range(n):
        weights = np.bincount(rng.integers(0, people, people), minlength=people)[user].astype(np.float64)
        positives, all_ = np.add.reduceat(weights * positive, starts), np.add.reduceat(weights, starts)
        negatives = all_ - positives
        total = positives.sum() * negatives.sum()
        if total:
            below = np.cumsum(negatives) - negatives / 2
            found[i] = (positives * below).sum() / total
    return found


def losses(labels: Array, chances: Array) -> NDArray[np.float64]:
    """What `ctr.log_loss` is the mean of, (n,)."""
    ctr.log_loss(labels, chances)  # refuses what is no chance
    p = np.clip(np.asarray(chances, np.float64), 1e-15, 1 - 1e-15)
    return np.where(np.asarray(labels) == 1, -np.log(p), -np.log1p(-p))
