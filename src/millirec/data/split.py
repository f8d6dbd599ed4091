"""Splits: which events a model learns from and which it is measured on. All are deterministic."""

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.dataset import TEST, TRAIN, VALIDATION, Dataset
from millirec.data.errors import ConfigError, DataError


class LeaveLastOut(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="kind",
    tag="leave-last-out",
):
    """Each user's last event is the test target, the one before validates.

    "Last" by a stable sort on time, file order on ties. Users with fewer than `min_events` only train. With
    `validation_users` > 0 only that many users, drawn at random but always the same, validate; the event before
    the last of all others trains, as in the replicability code of Petrov and Macdonald (RecSys 2022). The test part
    is the same either way.
    """

    min_events: int = 3
    validation_users: int = 0

    def __post_init__(self) -> None:
        if self.min_events < 3:
            raise ConfigError("$.split.min_events is below 3", "a user needs one event each to train, validate, test")
        if self.validation_users < 0:
            raise ConfigError(f"$.split.validation_users = {self.validation_users}", "choose 0 (all users) or more")


class GlobalTime(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="global-time"
):
    """The newest `test` share of all events tests, the share before it validates; the cut is one moment for all.

    Events of the same millisecond never stand on both sides of a cut.
    """

    validation: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        if not (0 < self.validation < 1 and 0 < self.test < 1 and self.validation + self.test < 1):
            raise ConfigError(
                "$.split: `validation` and `test` must be shares above 0 that leave events to train on",
                "for example validation = 0.1, test = 0.1",
            )


class Given(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="given"):
    """The split that the log's owners fixed, such as test sessions in a file of their own."""


SplitConfig = LeaveLastOut | GlobalTime | Given


def split(dataset: Dataset, config: SplitConfig, *, again: bool = False) -> Dataset:
    """The data set with a role for every event.

    A data set that is split already is refused unless `again`. Raises DataError then, when a part would be empty, and
    for a split by time of a log without times.
    """
    done = dataset.protocol != "none"
    if done and not again and not isinstance(config, Given):
        raise DataError(
            f"{dataset.name}: split already ({dataset.protocol})",
            'choose [split] kind = "given", or leave the test out',
        )
    if isinstance(config, GlobalTime) and not dataset.timed:
        raise DataError(f"{dataset.name}: tells no times to split by", 'choose [split] kind = "leave-last-out"')
    match config:
        case Given():
            if not done:
                raise DataError(f"{dataset.name}: no test part is given", 'choose [split] kind = "leave-last-out"')
            roles = dataset.roles
        case LeaveLastOut():
            roles = _leave_last_out(dataset, config)
        case GlobalTime():
            roles = _global_time(dataset.interactions.times, config)
    for role, part in ((TRAIN, "training"), (VALIDATION, "validation"), (TEST, "test")):
        if not (roles == role).any():
            raise DataError(f"the {part} part of the split is empty", "use more events, or another split")
    return dataset if isinstance(config, Given) else dataset.with_roles(roles, protocol_name(config))


def protocol_name(config: SplitConfig) -> str:
    """The split in words, with all that decides it."""
    match config:
        case LeaveLastOut(min_events=n, validation_users=v):
            some = f"validation_users={v}, " if v else ""
            return f"leave-last-out (min_events={n}, {some}stable sort by time, file order on ties)"
        case GlobalTime(validation=v, test=t):
            return f"global-time (validation={v:g}, test={t:g})"
        case Given():
            return "given"


def _leave_last_out(dataset: Dataset, config: LeaveLastOut) -> NDArray[np.uint8]:
    seq = dataset.sequences
    counts = np.diff(seq.offsets)
    ends = seq.offsets[1:][counts >= config.min_events]
    roles = np.zeros(len(seq.items), np.uint8)
    roles[seq.order[ends - 1]] = TEST
    if 0 < config.validation_users < len(ends):
        ends = np.random.default_rng(0).choice(ends, config.validation_users, replace=False)
    roles[seq.order[ends - 2]] = VALIDATION
    return roles


def _global_time(times: NDArray[np.int64], config: GlobalTime) -> NDArray[np.uint8]:
    ordered = np.sort(times)
    n = len(ordered)
    if not n:
        return np.zeros(0, np.uint8)
    cut_test = ordered[min(round(n * (1 - config.test)), n - 1)]
    cut_validation = ordered[min(round(n * (1 - config.test - config.validation)), n - 1)]
    roles = np.full(n, TRAIN, np.uint8)
    roles[times >= cut_validation] = VALIDATION
    roles[times >= cut_test] = TEST
    return roles


@dataclass(frozen=True, slots=True)
class Targets:
    """Events to be predicted, by place in `dataset.sequences`.

    `places` int64 (t,): the target is `sequences.items[place]`, its history everything of the same user before
    it. `starts` int64 (t,): where that user begins. `n_repeats` and `n_cold` count the events of the part that
    are no targets: items the user had already seen, and events with nothing before them.
    """

    places: NDArray[np.int64]
    starts: NDArray[np.int64]
    n_repeats: int = 0
    n_cold: int = 0

    def __len__(self) -> int:
        return len(self.places)


def targets(dataset: Dataset, role: int, *, repeats: bool = False) -> Targets:
    """What a part asks for. With `repeats` an item already seen may be asked for again (sessions)."""
    seq = dataset.sequences
    places = np.flatnonzero(seq.roles == role).astype(np.int64)
    starts = seq.offsets[seq.users[places]]
    warm = places > starts
    n_cold = int((~warm).sum())
    places, starts = places[warm], starts[warm]
    n_repeats = 0
    if not repeats:
        fresh = first_sights(dataset)[places]
        n_repeats = int((~fresh).sum())
        places, starts = places[fresh], starts[fresh]
    return Targets(places, starts, n_repeats, n_cold)


def first_sights(dataset: Dataset) -> NDArray[np.bool_]:
    """For each place of `sequences`: is this the first time that this user meets this item? bool (n,)."""
    seq = dataset.sequences
    pairs = seq.users.astype(np.int64) * (len(dataset.items) + 1) + seq.items
    first = np.zeros(len(pairs), np.bool_)
    first[np.unique(pairs, return_index=True)[1]] = True
    return first
