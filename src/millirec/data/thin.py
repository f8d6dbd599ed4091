"""`thin`: a training part without bots, repeats and copies."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.bots import Bots, bots
from millirec.data.dataset import CONTEXT, TRAIN, Dataset
from millirec.data.errors import ConfigError, DataError
from millirec.data.near import Duplicates, near_duplicates

_BOT_SIGNS = {
    "rapid": "more events within a minute than `events_per_minute` allows",
    "regular": "nearly all gaps between events alike",
    "long": "far more events than others have",
}


class Repeats(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same item again and again becomes one event, the first, while no two successive ones lie further apart than
    `within_seconds`; left out = however far apart.
    """

    within_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.within_seconds is not None and not self.within_seconds >= 0:
            raise ConfigError(
                f"$.thin.repeats.within_seconds = {self.within_seconds:g}", "choose 0 or more, or leave it out"
            )


class ThinConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out of training; a part that is absent is off. Bots go first, then repeats, then copies."""

    bots: Bots | None = None
    repeats: Repeats | None = None
    duplicates: Duplicates | None = None


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """How many training events were left out for one reason, of how many users, and one example.

    Bots and copies lose all of their training events, so `users` are those who train no more.
    """

    reason: str
    explanation: str
    users: int
    events: int
    example: str


class ThinReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `thin` did: events and users of the training part before and after, and why."""

    config: ThinConfig
    events: int
    events_kept: int
    users: int
    users_kept: int
    left_out: list[LeftOut]


def thin(dataset: Dataset, config: ThinConfig) -> tuple[Dataset, ThinReport]:
    """The same events, fewer of them in the training part.

    Only training events are looked at, and only they change: what is left out becomes CONTEXT, so that validation and
    test ask the same questions after the same histories, and figures with and without can be compared in pairs.
    Raises ConfigError for signs that need times when the log tells none, DataError when nothing would be left.
    """
    _check(dataset, config)
    seq = dataset.sequences
    before = seq.roles == TRAIN
    thinning = _Thinning(dataset, before.copy())
    if config.bots is not None:
        thinning.bots(config.bots)
    if config.repeats is not None:
        thinning.repeats(config.repeats)
    if config.duplicates is not None:
        thinning.duplicates(config.duplicates)
    if before.any() and not thinning.kept.any():
        raise DataError(f"{dataset.name}: $.thin leaves nothing to train on", "loosen its limits")
    roles = dataset.roles.copy()
    roles[seq.order[before & ~thinning.kept]] = CONTEXT
    report = ThinReport(
        config=config,
        events=int(before.sum()),
        events_kept=int(thinning.kept.sum()),
        users=len(np.unique(seq.users[before])),
        users_kept=len(np.unique(seq.users[thinning.kept])),
        left_out=thinning.left_out,
    )
    return dataset.with_roles(roles, dataset.protocol), report


def _check(dataset: Dataset, config: ThinConfig) -> None:
    if dataset.timed:
        return
    if config.bots is not None and config.bots.timed:
        raise ConfigError(
            f"$.thin.bots: {dataset.name} tells no times", "set events_per_minute = 0 and regular = 0, or leave it out"
        )
    if config.repeats is not None and config.repeats.within_seconds is not None:
        raise ConfigError(f"$.thin.repeats.within_seconds: {dataset.name} tells no times", "leave it out")


class _Thinning:
    """Places of `dataset.sequences` that still train, `kept` bool (m,), and what was left out so far."""

    def __init__(self, dataset: Dataset, kept: NDArray[np.bool_]) -> None:
        self.kept, self.left_out = kept, list[LeftOut]()
        self._seq, self._names = dataset.sequences, dataset.users.vocabulary
        self._n = len(dataset.users) + 1

    def bots(self, config: Bots) -> None:
        """All training events of users who show a sign; a user with several counts for the first."""
        found = bots(self._seq.times[self.kept], self._lengths(), config)
        done = np.zeros(self._n, np.bool_)
        for sign, users in found.items():
            new = users & ~done
            done |= users
            name = f"user {self._names.id(int(np.argmax(new)))!r}" if new.any() else ""
            self._leave_out(f"bots: {sign}", _BOT_SIGNS[sign], new[self._seq.users], name)

    def repeats(self, config: Repeats) -> None:
        """Events on the item of the training event before."""
        places = np.flatnonzero(self.kept)
        users, items, times = (column[places] for column in (self._seq.users, self._seq.items, self._seq.times))
        again = (users[1:] == users[:-1]) & (items[1:] == items[:-1])
        if config.within_seconds is not None:
            again &= np.diff(times) <= config.within_seconds * 1000
        out = np.zeros(len(self.kept), np.bool_)
        out[places[1:][again]] = True
        name = f"user {self._names.id(int(users[1:][again][0]))!r}" if again.any() else ""
        self._leave_out("repeats", "the item of the event before, again", out, name)

    def duplicates(self, config: Duplicates) -> None:
        """All training events of users whose history is all but that of another."""
        copies = near_duplicates(self._seq.items[self.kept], self._lengths(), config)
        users = np.zeros(self._n, np.bool_)
        users[copies.dropped] = True
        name = ""
        if len(copies.dropped):
            one, other = (self._names.id(int(rows[0])) for rows in (copies.dropped, copies.kept))
            name = f"user {one!r}, {copies.similarity[0]:.0%} of user {other!r}"
        self._leave_out("duplicates", "nearly the history of another user, who stays", users[self._seq.users], name)

    def _lengths(self) -> NDArray[np.int64]:
        """Events that still train of each user row, (n_users + 1,)."""
        return np.bincount(self._seq.users[self.kept], minlength=self._n)

    def _leave_out(self, reason: str, explanation: str, where: NDArray[np.bool_], example: str) -> None:
        where = where & self.kept
        self.kept &= ~where
        users = len(np.unique(self._seq.users[where]))
        self.left_out.append(
            LeftOut(reason=reason, explanation=explanation, users=users, events=int(where.sum()), example=example)
        )
