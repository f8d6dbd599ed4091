"""What a ranker loses when it learns anew without a group of its features.

Permutation asks a ranker that relies on a feature to do without it; retraining lets the others take its place. LOCO, or
"leave one covariate out": Lei et al., "Distribution-free predictive inference for regression", JASA 2018.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.dataset import VALIDATION
from millirec.data.errors import ConfigError, DataError
from millirec.data.features import RankingRows
from millirec.data.features.config import SequenceField
from millirec.metrics import ctr
from millirec.metrics.bootstrap import paired_difference
from millirec.metrics.ctr_summary import losses, resampled_aucs
from millirec.metrics.summary import Figure
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.models.rankers.din import DINConfig
from millirec.train.fit_ranker import RankerRows, Training, fit_rows, training_of
from millirec.train.journal import Silent
from millirec.train.machine import Machine

Groups = Mapping[str, tuple[str, ...]]


class GroupWorth(msgspec.Struct, frozen=True, kw_only=True):
    """What is lost without one group of features: the mean over the seeds, with 95 % intervals over users.

    `auc`: what it falls by. `log_loss`: what it rises by. `p_value`: of no difference in log loss. `aucs`: the fall
    of the AUC seed by seed; where they differ much, more seeds are needed. `useless`: the log loss rises by no more
    than the threshold.
    """

    name: str
    features: tuple[str, ...]
    auc: Figure
    log_loss: Figure
    p_value: float
    aucs: tuple[float, ...]
    useless: bool


class RetrainingReport(msgspec.Struct, frozen=True, kw_only=True):
    """All groups, the one whose loss costs most first; `auc` and `log_loss`: means of the rankers with all features."""

    n_rows: int
    seeds: tuple[int, ...]
    threshold: float
    auc: float
    log_loss: float
    groups: tuple[GroupWorth, ...]


class Retraining(NamedTuple):
    """One training is done: what was left out ("" = nothing), its AUC, how many are done, of how many, and seconds."""

    group: str
    seed: int
    auc: float
    done: int
    trainings: int
    seconds: float


def check_plain(checkpoint: RankerCheckpoint) -> None:
    """Raises ConfigError for a ranker that was more than trained: it does not say how to make another."""
    if [step.name for step in checkpoint.lineage] != ["train"]:
        raise ConfigError("the ranker is compressed: it cannot be trained again", "give the one that it was made of")


def groups_of(checkpoint: RankerCheckpoint, named: Groups | None = None) -> dict[str, tuple[str, ...]]:
    """The groups to leave out: those named, else each feature without which there is a ranker.

    Sequences go with the feature that has their vectors. Raises ConfigError for unknown features, for a group without
    which nothing is left to read, when there is no other, and for a compressed ranker.
    """
    check_plain(checkpoint)
    fields = checkpoint.featuriser.fields
    names = [field.name for field in fields]
    out = {}
    for group, wanted in (named or {name: (name,) for name in names}).items():
        unknown = sorted(set(wanted) - set(names))
        if unknown or not wanted:
            raise ConfigError(f"group {group!r}: no features {unknown}", f"choose among {names}")
        left = [f for f in fields if f.name not in wanted and not (isinstance(f, SequenceField) and f.of in wanted)]
        attends = isinstance(checkpoint.config, DINConfig)
        if any(isinstance(field, SequenceField) for field in left) if attends else left:
            out[group] = tuple(name for name in names if name not in {field.name for field in left})
        elif named:
            raise ConfigError(f"group {group!r}: without it the ranker has nothing to read", "name fewer features")
    if not out:
        raise ConfigError(f"the ranker has nothing to read without {names[0]!r}", "leave --retrain out")
    return out


def retraining_report(
    checkpoint: RankerCheckpoint,
    rows: RankingRows,
    groups: Groups,
    role: int = VALIDATION,
    *,
    seeds: int = 2,
    threshold: float = 0.0,
    machine: Machine | None = None,
    told: Callable[[Retraining], None] = lambda _: None,
) -> RetrainingReport:
    """Train the ranker without each of `groups` (see `groups_of`), `seeds` times, and measure on a part of the rows.

    The seeds are the ranker's own and those that follow it. The checkpoint itself is the ranker with all features of
    its own seed. Rankers with and without are compared seed by seed, on the same rows. Raises DataError for a part
    without rows, ConfigError for a ranker that is compressed, or that would have nothing left to work on.
    """
    part = rows.part(role)
    if not len(part):
        raise DataError("no rows in this part", "measure another part")
    lessons = _Lessons(checkpoint, rows, part, machine or Machine())
    own = tuple(lessons.seed + i for i in range(seeds))
    trainings, began = (1 + len(groups)) * seeds - 1, time.monotonic()
    found: dict[str, _Seen] = {}
    for group, gone in {"": (), **groups}.items():
        seen = found[group] = _Seen(lessons)
        for seed in own:
            seen.add(lessons.chances(gone, seed))
            done = sum(len(kind.aucs) for kind in found.values()) - 1  # the checkpoint was there
            if done:
                told(Retraining(group, seed, seen.aucs[-1], done, trainings, time.monotonic() - began))
    whole = found.pop("")
    worths = [_worth(name, groups[name], (whole, without), threshold) for name, without in found.items()]
    return RetrainingReport(
        n_rows=len(part),
        seeds=own,
        threshold=threshold,
        auc=float(np.mean(whole.aucs)),
        log_loss=float(whole.row_losses.mean()),
        groups=tuple(sorted(worths, key=lambda worth: -worth.log_loss.value)),
    )


class _Lessons:
    """The rows of a part, and what a ranker that learned without some features says of them."""

    def __init__(
        self, checkpoint: RankerCheckpoint, rows: RankingRows, part: NDArray[np.int64], machine: Machine
    ) -> None:
        check_plain(checkpoint)
        self.seed = int(checkpoint.lineage[0].settings["seed"])
        self.labels, self.users = rows.labels[part], rows.users[part]
        self._checkpoint, self._rows, self._part = checkpoint, rows, part
        self._train, self._machine = training_of(checkpoint), machine

    def chances(self, gone: tuple[str, ...], seed: int) -> NDArray[np.float64]:
        """The chance of each row of the part, (n,)."""
        ranker, rows = self._checkpoint, self._rows
        if gone or seed != self.seed:
            ranker, rows = self._learned(gone, seed)
        return ranker.chances(rows.features.take(self._part))

    def _learned(self, gone: tuple[str, ...], seed: int) -> tuple[RankerCheckpoint, RankingRows]:
        ranker = self._checkpoint
        featuriser = ranker.featuriser.without(gone)
        rows = replace(self._rows, features=self._rows.features.without(gone, ranker.featuriser.schema()))
        machine = msgspec.structs.replace(self._machine, seed=seed)
        how = Training(train=self._train, machine=machine, journal=Silent())
        return fit_rows(RankerRows(rows, featuriser, ranker.label, ranker.provenance), ranker.config, how), rows


class _Seen:
    """What rankers of several seeds say of the same rows: AUCs, and the means of what intervals are made of."""

    def __init__(self, lessons: _Lessons) -> None:
        self.labels, self.users = lessons.labels, lessons.users
        self.aucs: list[float] = []
        self._losses: list[NDArray[np.float64]] = []
        self._resampled: list[NDArray[np.float64]] = []

    def add(self, chances: NDArray[np.float64]) -> None:
        """One more seed."""
        self.aucs.append(ctr.auc(self.labels, chances))
        self._losses.append(losses(self.labels, chances))
        self._resampled.append(resampled_aucs(self.labels, chances, self.users))

    @property
    def row_losses(self) -> NDArray[np.float64]:
        """The log loss of each row, (n,)."""
        mean: NDArray[np.float64] = np.mean(self._losses, axis=0)
        return mean

    @property
    def resampled(self) -> NDArray[np.float64]:
        """The AUC of each draw of the users."""
        mean: NDArray[np.float64] = np.mean(self._resampled, axis=0)
        return mean


def _worth(name: str, features: tuple[str, ...], both: tuple[_Seen, _Seen], threshold: float) -> GroupWorth:
    whole, without = both
    loss = paired_difference(without.row_losses, whole.row_losses, groups=whole.users)
    aucs = tuple(a - b for a, b in zip(whole.aucs, without.aucs, strict=True))
    low, high = np.nanquantile(whole.resampled - without.resampled, [0.025, 0.975])
    return GroupWorth(
        name=name,
        features=features,
        auc=Figure(float(np.mean(aucs)), float(low), float(high)),
        log_loss=Figure(loss.mean, loss.low, loss.high),
        p_value=loss.p_value,
        aucs=aucs,
        useless=loss.mean <= threshold,
    )
