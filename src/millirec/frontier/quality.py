"""`Quality`: the figures of a bundle's answers, and what they keep of the teacher's."""

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.errors import DataError
from millirec.frontier.examination import Answers
from millirec.metrics.bootstrap import Difference, confidence_intervals, paired_difference, paired_ratio
from millirec.metrics.catalog import coverage_difference, coverage_interval
from millirec.metrics.summary import Figure, per_target

NDCG, RECALL, COVERAGE = "ndcg@10", "recall@10", "coverage@10"
_RESAMPLES = 2_000


class Contrast(msgspec.Struct, frozen=True, kw_only=True):
    """This variant minus another in one figure: the mean, its 95 % interval, and the p-value of "no difference"."""

    difference: float
    low: float
    high: float
    p_value: float

    @classmethod
    def of(cls, found: Difference) -> "Contrast":
        """From a test."""
        return cls(difference=found.mean, low=found.low, high=found.high, p_value=found.p_value)


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """NDCG@10, recall@10 and coverage@10 with 95 % intervals over users.

    `to_teacher`: the paired differences, by figure. `kept`: NDCG@10 as a share of the teacher's, both on the same
    users (paired bootstrap).
    """

    figures: dict[str, Figure]
    to_teacher: dict[str, Contrast]
    kept: Figure
    n_targets: int
    n_users: int


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges answers against those of the teacher to the same questions. `n_items`: size of the catalogue."""

    teacher: Answers
    n_items: int

    def quality(self, answers: Answers) -> Quality:
        """All figures. Raises DataError when the teacher finds nothing at all: there is no share to keep."""
        users, own, ref = answers.users, _values(answers), _values(self.teacher)
        if not ref[NDCG].any():
            raise DataError("the teacher finds none of the targets among its first 10", "train it first")
        means = confidence_intervals(np.stack([own[NDCG], own[RECALL]], axis=1), n=_RESAMPLES, groups=users)
        figures = {name: Figure(*interval) for name, interval in zip((NDCG, RECALL), means, strict=True)}
        figures[COVERAGE] = Figure(*coverage_interval(answers.top, self.n_items, users))
        contrasts = {name: Contrast.of(_difference(own[name], ref[name], users)) for name in (NDCG, RECALL)}
        contrasts[COVERAGE] = Contrast.of(coverage_difference(answers.top, self.teacher.top, self.n_items, users))
        kept = paired_ratio(own[NDCG], ref[NDCG], n=_RESAMPLES, groups=users)
        return Quality(
            figures=figures,
            to_teacher=contrasts,
            kept=Figure(*kept),
            n_targets=len(users),
            n_users=len(np.unique(users)),
        )


def contrast(a: Answers, b: Answers) -> Contrast:
    """NDCG@10 of `a` minus that of `b`."""
    return Contrast.of(_difference(_values(a)[NDCG], _values(b)[NDCG], a.users))


def _values(answers: Answers) -> dict[str, NDArray[np.float64]]:
    return per_target(answers.ranks, (10,))


def _difference(a: NDArray[np.float64], b: NDArray[np.float64], users: NDArray[np.int32]) -> Difference:
    return paired_difference(a, b, n=_RESAMPLES, groups=users)
