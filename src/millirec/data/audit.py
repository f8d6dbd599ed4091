"""`audit`: does the test part of a split leak into training?"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.dataset import TEST, TRAIN, VALIDATION, Dataset
from millirec.data.errors import DataError
from millirec.data.split import first_sights

_COPY = 5
"""Events that two users must share, with nothing else, before they look like copies."""

_Places = NDArray[np.int64]


class Leak(msgspec.Struct, frozen=True, kw_only=True):
    """What leaks. `count` events (users for copies), one `example`; a `warning` may be honest data."""

    kind: str
    count: int
    example: str
    explanation: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class _Check:
    kind: str
    find: Callable[[Dataset], _Places]
    explanation: str
    warning: bool = False


def audit(dataset: Dataset, *, repeats: bool = False) -> list[Leak]:
    """Leaks of a split data set, [] when there are none; places are judged in each user's time order.

    With `repeats` an item already seen may be asked for again. Raises DataError when nothing is set apart for a test.
    """
    if not (dataset.roles == TEST).any():
        raise DataError(f"{dataset.name}: no test part to audit", "split the data set first")
    leaks = []
    for check in _CHECKS:
        if check.kind == "target-in-history" and repeats:
            continue
        places = check.find(dataset)
        if len(places):
            leaks.append(
                Leak(
                    kind=check.kind,
                    count=len(places),
                    example=_example(dataset, int(places[0])),
                    explanation=check.explanation,
                    warning=check.warning,
                )
            )
    return leaks


def _example(dataset: Dataset, place: int) -> str:
    seq = dataset.sequences
    user = dataset.users.vocabulary.id(int(seq.users[place]))
    item = dataset.items.vocabulary.id(int(seq.items[place]))
    return f"user {user!r}, item {item!r}, time {seq.times[place]}"


def _same_event(dataset: Dataset) -> _Places:
    """Measured events that stand in the training part too."""
    seq = dataset.sequences
    order = np.lexsort((seq.times, seq.items, seq.users))
    u, i, t = seq.users[order], seq.items[order], seq.times[order]
    new = np.concatenate([[True], (u[1:] != u[:-1]) | (i[1:] != i[:-1]) | (t[1:] != t[:-1])])
    group = np.cumsum(new) - 1
    trained = np.zeros(int(group[-1]) + 1, np.bool_)
    roles = seq.roles[order]
    trained[group[roles == TRAIN]] = True
    return np.sort(order[((roles == TEST) | (roles == VALIDATION)) & trained[group]])


def _after_in_sequence(early: int, late: int) -> Callable[[Dataset], _Places]:
    """Events of role `early` that stand after an event of role `late` of the same user."""

    def find(dataset: Dataset) -> _Places:
        seq = dataset.sequences
        first = np.full(len(dataset.users) + 1, len(seq.items), np.int64)
        late_places = np.flatnonzero(seq.roles == late)
        np.minimum.at(first, seq.users[late_places], late_places)
        early_places = np.flatnonzero(seq.roles == early)
        return early_places[early_places > first[seq.users[early_places]]]

    return find


def _after_cut(early: int, late: int) -> Callable[[Dataset], _Places]:
    """Under a global split: events of role `early` at or after the first moment of role `late`."""

    def find(dataset: Dataset) -> _Places:
        seq = dataset.sequences
        if not dataset.protocol.startswith("global-time") or not (seq.roles == late).any():
            return np.empty(0, np.int64)
        return np.flatnonzero((seq.roles == early) & (seq.times >= seq.times[seq.roles == late].min()))

    return find


def _target_in_history(dataset: Dataset) -> _Places:
    seq = dataset.sequences
    measured = (seq.roles == TEST) | (seq.roles == VALIDATION)
    return np.flatnonzero(measured & ~first_sights(dataset))


def _copies(dataset: Dataset) -> _Places:
    """The last place of each measured user whose items are exactly those of another user, in any order."""
    seq = dataset.sequences
    counts = np.diff(seq.offsets)
    codes = np.random.default_rng(0).integers(0, 2**63, len(dataset.items) + 1, np.uint64)
    totals = np.concatenate([np.zeros(1, np.uint64), np.cumsum(codes[seq.items], dtype=np.uint64)])
    sums = totals[seq.offsets[1:]] - totals[seq.offsets[:-1]]  # wraps on purpose: a hash of the multiset
    measured = np.zeros(len(counts), np.bool_)
    measured[seq.users[seq.roles == TEST]] = True
    long = np.flatnonzero(counts >= _COPY)
    _, inverse, size = np.unique(sums[long], return_inverse=True, return_counts=True)
    users = long[(size[inverse] > 1) & measured[long]]
    return seq.offsets[users + 1] - 1


_CHECKS = (
    _Check("same-event", _same_event, "an event that is measured is trained on too: same user, item and time"),
    _Check(
        "train-after-test",
        _after_in_sequence(TRAIN, TEST),
        "a model trains on events of a user that follow the user's test target",
    ),
    _Check(
        "train-after-validation",
        _after_in_sequence(TRAIN, VALIDATION),
        "a model trains on events of a user that follow the user's validation target",
    ),
    _Check(
        "validation-after-test",
        _after_in_sequence(VALIDATION, TEST),
        "the best model is chosen on events of a user that follow the user's test target",
    ),
    _Check("train-after-cut", _after_cut(TRAIN, TEST), "training events at or after the first test event"),
    _Check(
        "train-after-validation-cut",
        _after_cut(TRAIN, VALIDATION),
        "training events at or after the first validation event",
    ),
    _Check("validation-after-cut", _after_cut(VALIDATION, TEST), "validation events at or after the first test event"),
    _Check(
        "target-in-history",
        _target_in_history,
        "the item asked for is in the user's own history, which is never recommended when repeats are off",
    ),
    _Check(
        "copied-user",
        _copies,
        "users with exactly the same items: one account twice? a test user's twin may be trained on",
        warning=True,
    ),
)
