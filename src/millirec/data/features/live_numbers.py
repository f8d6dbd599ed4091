"""`LiveNumbers`: what differs in every row as a number, of one user and many candidates at once.

Whole columns are computed in arrays of one shape, (columns, candidates): a step that spreads a column of constants over
its candidates takes four times as long as one between equal shapes, so constants are kept at full width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millirec.data.features import learned as learn
from millirec.data.features.config import WINDOWS, AgeField, CounterField, GapField, NumericField
from millirec.data.features.counts import Counts
from millirec.data.features.facts import NEVER
from millirec.data.features.featuriser import Featuriser, ScaledField
from millirec.data.features.sources import context_numbers
from millirec.data.features.state import FeatureState

_HOUR, _DAY = 3_600_000, 86_400_000
_FIRST, _LARGEST = 1 << 12, 1 << 18  # counts that a table of scaled ones has at first, and at most
_DESKS, _WIDEST = 8, 1024  # how many numbers of candidates are prepared for, and up to which
Context = Mapping[str, NDArray[Any]]


class LiveNumbers:
    """The numbers of `fields`: the first `n_scaled` scaled, the others raw. Not thread-safe.

    Counts are whole numbers, so their scaled values are looked up; everything else is computed.
    """

    def __init__(
        self, featuriser: Featuriser, state: FeatureState, fields: Sequence[ScaledField], n_scaled: int
    ) -> None:
        self._state, self._fields = state, tuple(fields)
        self._learned = [featuriser.learned[field.name] for field in fields]
        self._gathers = [_Gather(featuriser, counts) for counts in state.counts]
        self._counted = [i for i in range(n_scaled) if _is_count(fields[i])]
        computed = sorted(set(range(n_scaled)) - set(self._counted), key=lambda i: (not _is_rate(fields[i]), i))
        self._n_rates, self._n_scaled = sum(_is_rate(fields[i]) for i in computed), len(computed)
        self._order = np.argsort(np.array([*self._counted, *computed], np.int64))
        rows = list(enumerate([*computed, *range(n_scaled, len(fields))]))  # of what is computed: rates, others, raw
        self._rates = [(row, i) for row, i in rows if _is_rate(fields[i])]
        self._raw_counts = [(row, i) for row, i in rows if _is_count(fields[i])]
        self._rows = [(row, fields[i]) for row, i in rows if not isinstance(fields[i], CounterField)]
        self._n_rows, self._computed = len(rows), computed
        self._logs = np.array([row for row, i in rows[: self._n_scaled] if fields[i].scale == "log"], np.int64)
        self._smooth = all(smoothing > 0 for smoothing in self._smoothing())
        self._tables = [self._alone(i, np.arange(_FIRST)) for i in self._counted]
        self._desks: dict[int, _Desk] = {}
        self._join_tables()

    def of(
        self, user: int, items: NDArray[np.int64], now: int, context: Context
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Scaled (n, n_scaled), and raw (fields - n_scaled, n)."""
        n, n_counted = len(items), len(self._counted)
        desk = self._desk(n)
        raw = np.empty((self._n_rows, n))
        scaled = np.empty((n_counted + self._n_scaled, n), np.float32)
        if self._gathers:
            for gather, block in zip(self._gathers, desk.blocks, strict=True):
                gather.read(user, items, block)
            counts = desk.counts.take(desk.places, mode="clip")
            self._look_up(counts[:n_counted], desk, scaled[:n_counted])
            self._rate(counts[n_counted:], desk, raw)
        for row, field in self._rows:
            raw[row] = self._number(field, user, items, now, context)
        self._scale(raw[: self._n_scaled], desk, scaled[n_counted:])
        return np.ascontiguousarray(scaled.take(self._order, axis=0).T), raw[self._n_scaled :]

    def _number(self, field: ScaledField, user: int, items: NDArray[np.int64], now: int, context: Context) -> Any:
        """What is no count, (n,) or one for all."""
        match field:
            case AgeField():
                first = self._state.first.read(items)
                age, unknown = (now - first) / _HOUR, first == NEVER
                return np.where(unknown, np.nan, age) if unknown.any() else age
            case GapField():
                last = self._state.last.get(user)
                return np.nan if last == NEVER else (now - last) / 1000
            case NumericField():
                return context_numbers(field.source, context, len(items))
        return now / _DAY

    def _look_up(self, counts: NDArray[np.int32], desk: "_Desk", out: NDArray[np.float32]) -> None:
        """Scaled counts (counted, n)."""
        if not len(counts):
            return
        self._table.take((counts + desk.starts).astype(np.intp), mode="clip", out=out)
        beyond = counts >= desk.ends
        if beyond.any():
            for row in np.flatnonzero(beyond.any(axis=1)).tolist():
                out[row] = self._alone(self._counted[row], counts[row])
                self._grow(row, int(counts[row].max()))

    def _grow(self, row: int, most: int) -> None:
        """Let the table of a counted column hold `most`, unless that is too much."""
        if most < _LARGEST:
            self._tables[row] = self._alone(self._counted[row], np.arange(2 * most))
            self._join_tables()

    def _join_tables(self) -> None:
        self._table = np.concatenate([np.zeros(0, np.float32), *self._tables])
        self._desks.clear()

    def _rate(self, counts: NDArray[np.int32], desk: "_Desk", raw: NDArray[np.float64]) -> None:
        """Rates and raw counts, from positives, negatives and raw counts."""
        n, n_scaled = len(self._rates), self._n_rates
        known = counts[: 2 * n].astype(np.float64)
        above, below = known[:n], known[n:]
        below += above
        below += desk.smoothing
        above += desk.above
        if self._smooth:
            np.divide(above, below, out=above)
        else:
            above = np.where(below > 0, above / np.where(below > 0, below, 1), desk.priors)
        raw[:n_scaled] = above[:n_scaled]
        for place, (row, _) in enumerate(self._rates[n_scaled:], start=n_scaled):
            raw[row] = above[place]
        for place, (row, _) in enumerate(self._raw_counts, start=2 * n):
            raw[row] = counts[place]

    def _scale(self, numbers: NDArray[np.float64], desk: "_Desk", out: NDArray[np.float32]) -> None:
        """As `learned.scaled`, of all rows at once."""
        if not len(numbers):
            return
        if len(self._logs):
            plain = numbers.take(self._logs, axis=0)
            numbers[self._logs] = np.copysign(np.log1p(np.abs(plain)), plain)
        numbers -= desk.means
        numbers /= desk.deviations
        missing = np.isnan(numbers)
        if missing.any():
            numbers[missing] = 0
        np.maximum(numbers, desk.least, out=numbers)
        np.minimum(numbers, desk.most, out=numbers)
        out[...] = numbers

    def _alone(self, i: int, counts: NDArray[Any]) -> NDArray[np.float32]:
        """What the one definition makes of these counts."""
        return learn.scaled(counts.astype(np.float64), self._fields[i].scale, self._learned[i])

    def _smoothing(self) -> list[float]:
        return [getattr(self._fields[i], "smoothing", 0.0) for _, i in self._rates]

    def _desk(self, n: int) -> "_Desk":
        desk = self._desks.get(n)
        if desk is None:
            desk = self._prepared(n)
            if n <= _WIDEST:
                if len(self._desks) >= _DESKS:
                    self._desks.clear()
                self._desks[n] = desk
        return desk

    def _prepared(self, n: int) -> "_Desk":
        desk = _Desk(n, self._gathers)
        columns = [desk.column(self._fields[i]) for i in self._counted]
        columns += [desk.column(self._fields[i], add) for add in (1, 2) for _, i in self._rates]
        columns += [desk.column(self._fields[i]) for _, i in self._raw_counts]
        desk.places = np.array(columns, np.intp).reshape(-1, n)
        sizes = [len(table) for table in self._tables]
        desk.starts = desk.wide(np.cumsum([0, *sizes])[: len(sizes)]).astype(np.int32)
        desk.ends = desk.wide(sizes).astype(np.int32)
        smoothing, priors = self._smoothing(), [self._learned[i].prior for _, i in self._rates]
        desk.smoothing, desk.priors = desk.wide(smoothing), desk.wide(priors)
        desk.above = desk.wide([weight * prior for weight, prior in zip(smoothing, priors, strict=True)])
        scales = [self._learned[i] for i in self._computed]
        desk.means, desk.deviations = desk.wide([s.mean for s in scales]), desk.wide([s.deviation for s in scales])
        desk.least, desk.most = desk.wide([-learn.FARTHEST] * len(scales)), desk.wide([learn.FARTHEST] * len(scales))
        return desk


class _Desk:
    """What is prepared for n candidates.

    `counts`: room for what is gathered, by `blocks`; `places` (columns, n): where a column finds its own there.
    `starts` and `ends`: of the table of each counted column. The others are constants, (columns, n).
    """

    places: NDArray[np.intp]
    starts: NDArray[np.int32]
    ends: NDArray[np.int32]
    smoothing: NDArray[np.float64]
    priors: NDArray[np.float64]
    above: NDArray[np.float64]
    means: NDArray[np.float64]
    deviations: NDArray[np.float64]
    least: NDArray[np.float64]
    most: NDArray[np.float64]

    def __init__(self, n: int, gathers: Sequence["_Gather"]) -> None:
        self._n = n
        self._events: dict[tuple[tuple[str, ...], int], NDArray[np.intp]] = {}  # where those of a counter stand
        shapes = [(gather.rows(n), gather.width) for gather in gathers]
        starts = np.cumsum([0, *(rows * width for rows, width in shapes)]).tolist()
        self.counts = np.zeros(starts[-1], np.int32)
        self.blocks = []
        for gather, at, (rows, width) in zip(gathers, starts, shapes, strict=False):
            self.blocks.append(self.counts[at : at + rows * width].reshape(rows, width))
            steps = np.arange(n) * (width if rows > 1 else 0)
            self._events |= {(gather.by, window): at + 3 * i + steps for i, window in enumerate(gather.windows)}

    def column(self, field: ScaledField, add: int | None = None) -> NDArray[np.intp]:
        """The places of a counter's events or positives; of positives (1) or negatives (2) where `add` says so."""
        assert isinstance(field, CounterField)  # noqa: S101
        events = self._events[field.by, WINDOWS[field.window]]
        return events + (int(field.what == "positives") if add is None else add)

    def wide(self, values: Sequence[float] | NDArray[Any]) -> NDArray[np.float64]:
        """(columns, n)."""
        return np.repeat(np.array(values, np.float64)[:, None], self._n, axis=1)


class _Gather:
    """Reads one `Counts` for a user and many items."""

    def __init__(self, featuriser: Featuriser, counts: Counts) -> None:
        self._counts = counts
        self.by, self.windows, self.width = counts.by, counts.windows, 3 * len(counts.windows)
        self._sides = tuple(source.partition(".")[0] for source in counts.by)
        self._keys = [_Key(featuriser, source) for source in counts.by]

    def rows(self, n: int) -> int:
        """How many rows are read for n items: one where all of it is the user's."""
        return n if "item" in self._sides else 1

    def read(self, user: int, items: NDArray[np.int64], out: NDArray[np.int32]) -> None:
        """Into `out`, int32 (rows, 3 x windows)."""
        keys = [key.of(user, items) for key in self._keys]
        if self._sides == ("user", "item"):
            self._counts.read_of(keys[0], keys[1], out)
        elif self._sides == ("item",):
            self._counts.read((keys[0],), out)
        else:
            n = self.rows(len(items))
            self._counts.read(tuple(np.full(n, key) if isinstance(key, int) else key for key in keys), out)


class _Key:
    """What one source of a counter is for a user and many items: a number, or numbers (n,)."""

    def __init__(self, featuriser: Featuriser, source: str) -> None:
        self._is_item = source.startswith("item")
        # rows behind the catalogue's end have no features
        self._places = np.append(featuriser.keys.places(source), 0) if "." in source else None

    def of(self, user: int, items: NDArray[np.int64]) -> Any:
        if self._is_item:
            return items if self._places is None else self._places.take(items, mode="clip")
        return user if self._places is None else int(self._places[min(user, len(self._places) - 1)])


def _is_rate(field: ScaledField) -> bool:
    return isinstance(field, CounterField) and field.what == "rate"


def _is_count(field: ScaledField) -> bool:
    """Whether its number is a count before it is scaled."""
    return isinstance(field, CounterField) and field.what != "rate"
