"""`Facts`: what is known when a row is scored, before any scaling. Live and replayed facts are equal."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from millirec.data.errors import DataError
from millirec.data.features.config import (
    WINDOWS,
    AgeField,
    CounterField,
    FieldConfig,
    GapField,
    Only,
    SequenceField,
)
from millirec.data.features.ragged import Ragged
from millirec.data.labels import NEGATIVE, POSITIVE

NEVER = int(np.iinfo(np.int64).min)
LABELS: Mapping[Only, int | None] = {"all": None, "positive": POSITIVE, "negative": NEGATIVE}
"""The label of the events that a sequence remembers; None = whatever it is."""
STEPS = 60
"""In how many steps a window slides: a counter keeps a number a step, not every event."""


class Tally(NamedTuple):
    """What is counted: events that agree in the sources `by`, over `window` milliseconds (0 = since ever)."""

    by: tuple[str, ...]
    window: int


class Recent(NamedTuple):
    """Which of a user's events are remembered, and how many of them."""

    only: Only
    length: int


@dataclass(frozen=True)
class Needs:
    """What the features of a config ask of the events: nothing else is kept."""

    tallies: tuple[Tally, ...] = ()
    recents: tuple[Recent, ...] = ()
    gap: bool = False
    age: bool = False

    @classmethod
    def of(cls, fields: Iterable[FieldConfig]) -> "Needs":
        """The needs of these features."""
        fields = tuple(fields)
        return cls(
            tuple(dict.fromkeys(tally_of(f) for f in fields if isinstance(f, CounterField))),
            tuple(dict.fromkeys(recent_of(f) for f in fields if isinstance(f, SequenceField))),
            any(isinstance(f, GapField) for f in fields),
            any(isinstance(f, AgeField) for f in fields),
        )


def tally_of(counter: CounterField) -> Tally:
    """What a counter asks to be counted; counters that differ in `what` alone share it."""
    return Tally(counter.by, WINDOWS[counter.window])


def recent_of(sequence: SequenceField) -> Recent:
    """What a sequence asks to be remembered."""
    return Recent(sequence.only, sequence.length)


@dataclass(frozen=True)
class Facts:
    """Columns over n rows; each row knows the events before its own `now` (milliseconds), and no others.

    `users`, `items` int64 (n,): rows of the catalogues, 0 = unknown. `context`: arrays (n,) by name. `counts` int64
    (n, 3): events, positives, negatives. `last`: the user's newest event, `first`: the item's oldest one, int64 (n,)
    milliseconds, NEVER = none. `histories`: item rows, oldest first.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    now: NDArray[np.int64]
    context: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    counts: Mapping[Tally, NDArray[np.int64]] = field(default_factory=dict)
    last: NDArray[np.int64] | None = None
    first: NDArray[np.int64] | None = None
    histories: Mapping[Recent, Ragged] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, column in self.context.items():
            if np.shape(column) != (len(self),):
                raise DataError(f"context.{name}: {np.shape(column)} values for {len(self)} rows", "give one a row")

    def __len__(self) -> int:
        return len(self.users)

    def take(self, which: NDArray[Any]) -> "Facts":
        """These rows only."""
        return Facts(
            self.users[which],
            self.items[which],
            self.now[which],
            {name: column[which] for name, column in self.context.items()},
            {tally: counts[which] for tally, counts in self.counts.items()},
            None if self.last is None else self.last[which],
            None if self.first is None else self.first[which],
            {recent: rows.take(which) for recent, rows in self.histories.items()},
        )


def first_step(now: Any, window: int) -> Any:
    """The oldest step that a window of `window` ms reaches at `now` (ms, scalar or array); a step is window / STEPS."""
    return now // (window // STEPS) - (STEPS - 1)
