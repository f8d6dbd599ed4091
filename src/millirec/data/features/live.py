"""`LiveFeatures`: the features of one user and many candidates, in a fraction of a millisecond.

The same numbers as `Featuriser.features` of `FeatureState.facts`, byte for byte, but worked out by sides: what belongs
to items or to the user alone is looked up in tables by row; what depends on both or on the moment is computed for all
candidates and all features of a kind at once.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from millirec.data.features import learned as learn
from millirec.data.features.config import (
    WINDOWS,
    AgeField,
    CategoricalField,
    ClockField,
    CounterField,
    CrossField,
    FieldConfig,
    GapField,
    HashedField,
    MomentField,
    MultiValuedField,
    NumericField,
    SequenceField,
)
from millirec.data.features.counts import Counts
from millirec.data.features.facts import NEVER, Facts, recent_of
from millirec.data.features.featuriser import Featuriser, ScaledField, clock_id, is_categorical
from millirec.data.features.sources import context_numbers
from millirec.data.features.state import FeatureState

_HOUR, _DAY = 3_600_000, 86_400_000
Column = NDArray[Any]
Context = Mapping[str, NDArray[Any]]


class Columns(NamedTuple):
    """Places of features in a `Schema`: among its categorical features, its numbers, its lists."""

    ids: tuple[int, ...]
    numbers: tuple[int, ...]
    lists: tuple[int, ...]


class Sides(NamedTuple):
    """Which features are fixed for an item, which are the user's or the moment's, and which differ in every row."""

    item: Columns
    user: Columns
    row: Columns


class Table(NamedTuple):
    """Static features by catalogue row: `ids` int32, `numbers` float32, `lists` int32, (n + 2, columns) each.

    The last row is that of whom the catalogue does not know.
    """

    ids: NDArray[np.int32]
    numbers: NDArray[np.float32]
    lists: NDArray[np.int32]


class LiveRows(NamedTuple):
    """One user (1, ...) and n candidates (n, ...): what is looked up by the candidates' rows is left out.

    `sequences` int32 (1, S, L), padded with 0 on the right; other columns in the order of `Sides`.
    """

    user_ids: NDArray[np.int32]
    user_numbers: NDArray[np.float32]
    user_lists: NDArray[np.int32]
    sequences: NDArray[np.int32]
    row_ids: NDArray[np.int32]
    row_numbers: NDArray[np.float32]


def sides_of(featuriser: Featuriser) -> Sides:
    """The sides of the features, in the order in which `LiveFeatures` gives them."""
    fields = featuriser.fields
    kinds: tuple[Sequence[FieldConfig], ...] = (
        [f for f in fields if is_categorical(f)],
        [f for f in fields if isinstance(f, ScaledField) and f.scale != "buckets"],
        [f for f in fields if isinstance(f, MultiValuedField)],
    )
    found = {
        side: Columns(*(tuple(i for i, f in enumerate(kind) if side_of(f) == side) for kind in kinds))
        for side in Sides._fields
    }
    return Sides(**found)


def side_of(field: FieldConfig) -> str:
    """The side of one feature: "item", "user" or "row"."""
    match field:
        case ClockField() | SequenceField():
            return "user"
        case CategoricalField() | HashedField() | MultiValuedField() | NumericField():
            return _side(field.source)
        case CrossField():
            sides = set(map(_side, field.sources))
            return sides.pop() if len(sides) == 1 else "row"
    return "row"


def _side(source: str) -> str:
    kind = source.partition(".")[0]
    return kind if kind in ("item", "user") else "row"


class LiveFeatures:
    """`rows` for questions in order of time. Not thread-safe: it moves the state's windows."""

    def __init__(self, featuriser: Featuriser, state: FeatureState) -> None:
        self.featuriser, self.state, self.sides = featuriser, state, sides_of(featuriser)
        fields = featuriser.fields
        self._categorical = [f for f in fields if is_categorical(f)]
        self._scaled = [f for f in fields if isinstance(f, ScaledField) and f.scale != "buckets"]
        self._lists = [f for f in fields if isinstance(f, MultiValuedField)]
        sequences = [f for f in fields if isinstance(f, SequenceField)]
        self._sequences = [(f, recent_of(f), featuriser.ids_by_row[f.of]) for f in sequences]
        self.items, self._users = self._table("item"), self._table("user")
        own = [self._categorical[i] for i in self.sides.user.ids]
        self._clocks = [(place, field) for place, field in enumerate(own) if isinstance(field, ClockField)]
        numbers = [self._scaled[i] for i in self.sides.row.numbers]
        self._row_ids = [self._categorical[i] for i in self.sides.row.ids]
        buckets = [f for f in self._row_ids if isinstance(f, ScaledField)]
        self._numbers = Numbers(featuriser, state, (*numbers, *buckets), len(numbers))

    def rows(
        self,
        user: int,
        rows: NDArray[np.int32],
        now: int,
        context: Context | None = None,
        history: NDArray[np.int32] | None = None,
    ) -> LiveRows:
        """The features of a user's row (0 = nobody) and of candidates' rows (n,), all of the catalogue, at `now` (ms).

        `history`: item rows, oldest first, of a user of whom nothing else is known: they stand for his events, of which
        no label is known. Raises DataError for a context that is no number where one is wanted.
        """
        self.state.slide(now)
        items, context = rows.astype(np.int64), {**(context or {}), **self._fixed(len(rows))}
        numbers, raw = self._numbers.of(user, items, now, context)
        place = min(user, len(self._users.ids) - 1)
        ids = self._users.ids[place : place + 1].copy()
        for column, clock in self._clocks:
            ids[0, column] = clock_id(clock, now)
        return LiveRows(
            ids,
            self._users.numbers[place : place + 1],
            self._users.lists[place : place + 1],
            self._histories(user, history),
            self._ids(user, items, now, context, raw),
            numbers,
        )

    def _fixed(self, n: int) -> Context:
        return {name: np.full(n, value, object) for name, value in self.featuriser.fixed.items()}

    def _histories(self, user: int, given: NDArray[np.int32] | None) -> NDArray[np.int32]:
        found = []
        for field, recent, ids in self._sequences:
            if given is None:
                items = self.state.recent(recent, user)
            else:
                items = given[-field.length :] if field.only == "all" else given[:0]
            known = ids.take(items[items < len(ids)])
            found.append(known[known > 0])
        out = np.zeros((1, len(found), max([1, *map(len, found)])), np.int32)
        for i, items in enumerate(found):
            out[0, i, : len(items)] = items
        return out

    def _ids(
        self, user: int, items: NDArray[np.int64], now: int, context: Context, raw: NDArray[np.float64]
    ) -> NDArray[np.int32]:
        n = len(items)
        out = np.empty((n, len(self._row_ids)), np.int32)
        if not self._row_ids:
            return out
        facts, bucket = Facts(np.full(n, user, np.int64), items, np.full(n, now), context), 0
        for column, field in enumerate(self._row_ids):
            if isinstance(field, ScaledField):
                out[:, column] = learn.bucketed(raw[bucket], self.featuriser.learned[field.name])
                bucket += 1
            else:
                out[:, column] = self.featuriser.ids(field, facts)
        return out

    def _table(self, side: str) -> Table:
        """What is static on one side, for all rows of its catalogue and one behind its end."""
        featuriser, columns = self.featuriser, getattr(self.sides, side)
        rows = np.arange(len(featuriser.items if side == "item" else featuriser.users) + 2, dtype=np.int64)
        nobody = np.zeros_like(rows)
        facts = Facts(*((nobody, rows) if side == "item" else (rows, nobody)), nobody)
        ids = [
            nobody.astype(np.int32)
            if isinstance(self._categorical[i], ClockField)
            else featuriser.ids(self._categorical[i], facts)
            for i in columns.ids
        ]
        numbers = [featuriser.scaled(self._scaled[i], facts) for i in columns.numbers]
        lists = [self._lists[i] for i in columns.lists]
        padded = [featuriser.listed(field, facts).padded(field.max_values) for field in lists]
        n = len(rows)
        return Table(
            np.stack(ids, axis=1) if ids else np.zeros((n, 0), np.int32),
            np.stack(numbers, axis=1) if numbers else np.zeros((n, 0), np.float32),
            np.concatenate(padded, axis=1) if padded else np.zeros((n, 0), np.int32),
        )


class Numbers:
    """The numbers that differ in every row, all at once: the first `n_scaled` of `fields` scaled, the others raw."""

    def __init__(
        self, featuriser: Featuriser, state: FeatureState, fields: Sequence[ScaledField], n_scaled: int
    ) -> None:
        self._state, self._n_scaled = state, n_scaled
        self._fields = fields
        learned = [featuriser.learned[field.name] for field in fields]
        self._others = [(i, f) for i, f in enumerate(fields) if isinstance(f, NumericField)]
        self._ages = [i for i, f in enumerate(fields) if isinstance(f, AgeField)]
        self._gaps = [i for i, f in enumerate(fields) if isinstance(f, GapField)]
        self._moments = [i for i, f in enumerate(fields) if isinstance(f, MomentField)]
        self._gathers = [_Gather(featuriser, counts) for counts in state.counts]
        self._gathered = np.cumsum([0, *(3 * len(counts.windows) for counts in state.counts)]).tolist()
        columns = _columns(state)
        counters = [(i, f) for i, f in enumerate(fields) if isinstance(f, CounterField)]
        sums = [(i, f) for i, f in counters if f.what != "rate"]
        rates = [(i, f) for i, f in counters if f.what == "rate"]
        self._sums = np.array([i for i, _ in sums], np.int64)
        self._sums_of = np.array([columns[f.by, f.window] + (f.what == "positives") for _, f in sums], np.int64)
        self._rates = np.array([i for i, _ in rates], np.int64)
        self._rates_of = np.array([columns[f.by, f.window] + 1 for _, f in rates], np.int64)
        self._priors = _upright([learned[i].prior for i, _ in rates])
        self._smoothing = _upright([f.smoothing for _, f in rates])
        self._above = _upright([f.smoothing * learned[i].prior for i, f in rates])
        self._smooth = bool((self._smoothing > 0).all())
        self._logs = np.array([i for i, f in enumerate(fields[:n_scaled]) if f.scale == "log"], np.int64)
        self._means = _upright([one.mean for one in learned[:n_scaled]])
        self._deviations = _upright([one.deviation for one in learned[:n_scaled]])
        self._complete = not (self._others or self._ages or self._gaps)

    def of(
        self, user: int, items: NDArray[np.int64], now: int, context: Context
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Scaled (n, n_scaled), and raw (fields - n_scaled, n)."""
        raw = np.empty((len(self._fields), len(items)))
        self._count(user, items, raw)
        for i in self._ages:
            first = self._state.first.read(items)
            raw[i] = np.where(first == NEVER, np.nan, (now - first) / _HOUR)
        for i in self._gaps:
            last = self._state.last.get(user)
            raw[i] = np.nan if last == NEVER else (now - last) / 1000
        for i in self._moments:
            raw[i] = now / _DAY
        for i, field in self._others:
            raw[i] = context_numbers(field.source, context, len(items))
        return self._scale(raw[: self._n_scaled]), raw[self._n_scaled :]

    def _count(self, user: int, items: NDArray[np.int64], raw: NDArray[np.float64]) -> None:
        if not self._gathers:
            return
        counts = np.empty((self._gathered[-1], len(items)))
        for at, gather in zip(self._gathered, self._gathers, strict=False):
            found = gather.of(user, items)
            counts[at : at + len(found)] = found
        if len(self._sums):
            raw[self._sums] = counts[self._sums_of]
        if len(self._rates):
            positives = counts[self._rates_of]
            labelled = counts[self._rates_of + 1]
            labelled += positives
            labelled += self._smoothing
            positives += self._above
            if self._smooth:
                np.divide(positives, labelled, out=positives)
            else:
                some = labelled > 0
                positives = np.where(some, positives / np.where(some, labelled, 1), self._priors)
            raw[self._rates] = positives

    def _scale(self, numbers: NDArray[np.float64]) -> NDArray[np.float32]:
        if len(self._logs):
            plain = numbers[self._logs]
            numbers[self._logs] = np.copysign(np.log1p(np.abs(plain)), plain)
        numbers -= self._means
        numbers /= self._deviations
        if not self._complete:
            numbers[np.isnan(numbers)] = 0
        np.maximum(numbers, -learn.FARTHEST, out=numbers)
        np.minimum(numbers, learn.FARTHEST, out=numbers)
        return np.ascontiguousarray(numbers.astype(np.float32).T)


class _Gather:
    """Reads one `Counts` for a user and many items."""

    def __init__(self, featuriser: Featuriser, counts: Counts) -> None:
        self._counts = counts
        self._parts = [(_side(source), _places(featuriser, source)) for source in counts.by]
        self._sides = tuple(side for side, _ in self._parts)

    def of(self, user: int, items: NDArray[np.int64]) -> NDArray[np.int32]:
        """int32 (3 x windows, n), or (3 x windows, 1) where all of it is the user's."""
        keys = [self._key(side, places, user, items) for side, places in self._parts]
        if self._sides == ("user", "item"):
            return self._counts.read_of(keys[0], keys[1]).T
        if self._sides == ("item",):
            return self._counts.read((keys[0],)).T
        n = 1 if "item" not in self._sides else len(items)
        return self._counts.read(tuple(np.full(n, key) if isinstance(key, int) else key for key in keys)).T

    @staticmethod
    def _key(side: str, places: Column | None, user: int, items: NDArray[np.int64]) -> Any:
        if side == "item":
            return items if places is None else places.take(items, mode="clip")
        if places is None:
            return user
        return int(places[user]) if user < len(places) else 0


def _places(featuriser: Featuriser, source: str) -> Column | None:
    return featuriser.keys.places(source) if "." in source else None


def _columns(state: FeatureState) -> dict[tuple[tuple[str, ...], str], int]:
    """Where the events of a counter begin among the gathered counts, by what it counts by and its window's name."""
    names = {length: name for name, length in WINDOWS.items()}
    out, at = {}, 0
    for counts in state.counts:
        for window in counts.windows:
            out[counts.by, names[window]] = at
            at += 3
    return out


def _upright(numbers: Sequence[float]) -> NDArray[np.float64]:
    return np.array(numbers, np.float64)[:, None]
