"""`LiveFeatures`: the features of one user and many candidates, in a fraction of a millisecond.

The same numbers as `Featuriser.features` of `FeatureState.facts`, byte for byte, but worked out by sides: what belongs
to items or to the user alone is looked up in tables by row; what depends on both or on the moment is computed for all
candidates and all features of a kind at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from millirec.data.features.config import (
    CategoricalField,
    ClockField,
    CounterField,
    CrossField,
    FieldConfig,
    HashedField,
    MultiValuedField,
    NumericField,
    SequenceField,
)
from millirec.data.features.facts import Facts, recent_of
from millirec.data.features.featuriser import Featuriser, ScaledField, clock_id, is_categorical
from millirec.data.features.live_numbers import Context, LiveNumbers, groups_of
from millirec.data.features.state import FeatureState

_ANY = np.zeros(1, np.int64)  # an item, where none is asked for


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

    `sequences` int32 (1, S, L), padded with 0 on the right; `shares` float32 (1, S, L): what each event counts in the
    mean of its sequence. Other columns in the order of `Sides`.
    """

    user_ids: NDArray[np.int32]
    user_numbers: NDArray[np.float32]
    user_lists: NDArray[np.int32]
    sequences: NDArray[np.int32]
    shares: NDArray[np.float32]
    row_ids: NDArray[np.int32]
    row_numbers: NDArray[np.float32]


def sides_of(featuriser: Featuriser) -> Sides:
    """The sides of the features, in the order in which `LiveFeatures` gives them: numbers of rows as they are read."""
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
    row = found["row"]
    order = np.argsort(groups_of([kinds[1][i] for i in row.numbers]), kind="stable")
    return Sides(**found | {"row": row._replace(numbers=tuple(row.numbers[i] for i in order.tolist()))})


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
        case CounterField():
            return "user" if set(map(_side, field.by)) == {"user"} else "row"
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
        # of each row of the catalogue, and of all behind its end, which have none
        ids = {f.of: np.append(featuriser.ids_by_row[f.of], np.int32(0)) for f in sequences}
        self._sequences = [(f, recent_of(f), ids[f.of]) for f in sequences]
        self.items, self._users = self._table("item"), self._table("user")
        own = [self._categorical[i] for i in self.sides.user.ids]
        self._clocks = [(place, field) for place, field in enumerate(own) if isinstance(field, ClockField)]
        self._own_buckets = self._live(own)
        self._own_numbers = self._live([self._scaled[i] for i in self.sides.user.numbers])
        self._row_ids = [self._categorical[i] for i in self.sides.row.ids]
        buckets = [f for f in self._row_ids if isinstance(f, ScaledField)]
        numbers = [self._scaled[i] for i in self.sides.row.numbers]
        self._numbers, self._buckets = (LiveNumbers(featuriser, state, fields) for fields in (numbers, buckets))

    def slide(self, now: int) -> None:
        """Take in what waits and let the windows end at `now` (ms): `rows` at `now` has that much less to do."""
        self.state.slide(now)
        for numbers in (self._numbers, self._buckets, self._own_numbers[1], self._own_buckets[1]):
            numbers.refresh()

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
        self.slide(now)
        items, context = rows.astype(np.int64), {**(context or {}), **self._fixed(len(rows))}
        sequences, shares = self._histories(user, history)
        place = min(user, len(self._users.ids) - 1)
        ids, own_numbers = self._users.ids[place : place + 1].copy(), self._users.numbers[place : place + 1].copy()
        for column, clock in self._clocks:
            ids[0, column] = clock_id(clock, now)
        if self._own_buckets[0]:
            ids[:, self._own_buckets[0]] = self._own_buckets[1].of(user, _ANY, now, {})
        if self._own_numbers[0]:
            own_numbers[:, self._own_numbers[0]] = self._own_numbers[1].of(user, _ANY, now, {})
        return LiveRows(
            ids,
            own_numbers,
            self._users.lists[place : place + 1],
            sequences,
            shares,
            self._ids(user, items, now, context),
            self._numbers.of(user, items, now, context),
        )

    def _live(self, fields: Sequence[FieldConfig]) -> tuple[list[int], LiveNumbers]:
        """Those of a user's features that move as he does, by their columns."""
        columns = [column for column, field in enumerate(fields) if isinstance(field, CounterField)]
        live = [field for field in fields if isinstance(field, CounterField)]
        return columns, LiveNumbers(self.featuriser, self.state, live)

    def _fixed(self, n: int) -> Context:
        return {name: np.full(n, value, object) for name, value in self.featuriser.fixed.items()}

    def _histories(self, user: int, given: NDArray[np.int32] | None) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        found = []
        for field, recent, ids in self._sequences:
            if given is None:
                items = self.state.recent(recent, user)
            else:
                items = given[-field.length :] if field.only == "all" else given[:0]
            known = ids.take(items, mode="clip")
            found.append(known[known > 0])
        shape = 1, len(found), max([1, *map(len, found)])
        out, shares = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        for i, items in enumerate(found):
            if n := len(items):
                out[0, i, :n], shares[0, i, :n] = items, 1 / n
        return out, shares

    def _ids(self, user: int, items: NDArray[np.int64], now: int, context: Context) -> NDArray[np.int32]:
        n = len(items)
        out = np.empty((n, len(self._row_ids)), np.int32)
        if not self._row_ids:
            return out
        facts = Facts(np.full(n, user, np.int64), items, np.full(n, now), context)
        buckets = iter(self._buckets.of(user, items, now, context).T)
        for column, field in enumerate(self._row_ids):
            out[:, column] = next(buckets) if isinstance(field, ScaledField) else self.featuriser.ids(field, facts)
        return out

    def _table(self, side: str) -> Table:
        """What is static on one side, for all rows of its catalogue and one behind its end; 0 for what is not."""
        featuriser, columns = self.featuriser, getattr(self.sides, side)
        rows = np.arange(len(featuriser.items if side == "item" else featuriser.users) + 2, dtype=np.int64)
        nobody = np.zeros_like(rows)
        facts = Facts(*((nobody, rows) if side == "item" else (rows, nobody)), nobody)
        ids = [
            nobody.astype(np.int32)
            if isinstance(self._categorical[i], ClockField | CounterField)
            else featuriser.ids(self._categorical[i], facts)
            for i in columns.ids
        ]
        numbers = [
            nobody.astype(np.float32)
            if isinstance(self._scaled[i], CounterField)
            else featuriser.scaled(self._scaled[i], facts)
            for i in columns.numbers
        ]
        lists = [self._lists[i] for i in columns.lists]
        padded = [featuriser.listed(field, facts).padded(field.max_values) for field in lists]
        n = len(rows)
        return Table(
            np.stack(ids, axis=1) if ids else np.zeros((n, 0), np.int32),
            np.stack(numbers, axis=1) if numbers else np.zeros((n, 0), np.float32),
            np.concatenate(padded, axis=1) if padded else np.zeros((n, 0), np.int32),
        )
