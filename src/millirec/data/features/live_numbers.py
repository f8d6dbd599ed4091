"""`LiveNumbers`: what differs in every row as a number, of one user and many candidates at once."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millirec.data.features import learned as learn
from millirec.data.features.config import AgeField, CounterField, FieldConfig, GapField, NumericField
from millirec.data.features.facts import NEVER
from millirec.data.features.featuriser import Featuriser, ScaledField
from millirec.data.features.live_counters import LiveCounters
from millirec.data.features.sources import context_numbers
from millirec.data.features.state import FeatureState

_HOUR, _DAY = 3_600_000, 86_400_000
Context = Mapping[str, NDArray[Any]]


class LiveNumbers:
    """The numbers of `fields`: scaled float32, or int32 where all of them are buckets. Not thread-safe.

    Counters are looked up; what depends on the moment or the request is computed. Fields should stand in the order of
    `groups_of`: then blocks of columns are read as they come.
    """

    def __init__(self, featuriser: Featuriser, state: FeatureState, fields: Sequence[ScaledField]) -> None:
        self._state, self._buckets = state, any(field.scale == "buckets" for field in fields)
        groups = groups_of(fields)
        order = np.argsort(groups, kind="stable").tolist()
        self._back = None if order == sorted(order) else np.argsort(order)  # from blocks to fields
        counters = [field for field in fields if isinstance(field, CounterField)]
        self._counters = []
        for by in dict.fromkeys(field.by for field in counters):
            counts = next(counts for counts in state.counts if counts.by == by)
            own = [field for field in counters if field.by == by]
            self._counters.append(LiveCounters(featuriser, counts, own))
        self._keys = {source: _Key(featuriser, source) for each in self._counters for source in each.by}
        self._others = [fields[i] for i in order if not isinstance(fields[i], CounterField)]
        self._learned = [featuriser.learned[field.name] for field in self._others]
        self._n_logs = sum(field.scale == "log" for field in self._others)
        self._means = np.array([[learned.mean] for learned in self._learned])
        self._deviations = np.array([[learned.deviation] for learned in self._learned])

    def refresh(self) -> None:
        """Let the counters know what has been counted."""
        for counters in self._counters:
            counters.refresh()

    def of(self, user: int, items: NDArray[np.int64], now: int, context: Context) -> NDArray[Any]:
        """(n, fields), as of the last `refresh`."""
        n = len(items)
        keys = {source: key.of(user, items) for source, key in self._keys.items()}
        blocks = [counters.read(keys, n) for counters in self._counters]
        if self._others:
            numbers = np.empty((len(self._others), n))
            for row, field in enumerate(self._others):
                numbers[row] = self._number(field, user, items, now, context)
            blocks.append((self._bucketed(numbers) if self._buckets else self._scaled(numbers)).T)
        if not blocks:
            return np.empty((n, 0), np.int32 if self._buckets else np.float32)
        out = np.ascontiguousarray(np.concatenate(blocks, axis=1))
        return out if self._back is None else out.take(self._back, axis=1)

    def _number(self, field: ScaledField, user: int, items: NDArray[np.int64], now: int, context: Context) -> Any:
        """What is no counter, (n,) or one for all."""
        match field:
            case AgeField():
                first = self._state.first.read(items)
                age = (now - first) / _HOUR
                return age if first.min(initial=now) > NEVER else np.where(first == NEVER, np.nan, age)
            case GapField():
                last = self._state.last.get(user)
                return np.nan if last == NEVER else (now - last) / 1000
            case NumericField():
                return context_numbers(field.source, context, len(items))
        return now / _DAY

    def _scaled(self, numbers: NDArray[np.float64]) -> NDArray[np.float32]:
        """As `learned.scaled`, of all rows at once."""
        if self._n_logs:
            plain = numbers[: self._n_logs]
            np.copysign(np.log1p(np.abs(plain)), plain, out=plain)
        numbers -= self._means
        numbers /= self._deviations
        missing = np.isnan(numbers)
        if missing.any():
            numbers[missing] = 0
        np.maximum(numbers, -learn.FARTHEST, out=numbers)
        np.minimum(numbers, learn.FARTHEST, out=numbers)
        return numbers.astype(np.float32)

    def _bucketed(self, numbers: NDArray[np.float64]) -> NDArray[np.int32]:
        pairs = zip(numbers, self._learned, strict=True)
        return np.stack([learn.bucketed(row, learned) for row, learned in pairs])


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


def groups_of(fields: Sequence[FieldConfig]) -> NDArray[np.int64]:
    """What is read together: a number for each field, (n,). Counters by what they count by, logarithms, all else."""
    groups = list(dict.fromkeys(field.by for field in fields if isinstance(field, CounterField)))
    n = len(groups)
    return np.array(
        [groups.index(f.by) if isinstance(f, CounterField) else n + (getattr(f, "scale", "") != "log") for f in fields],
        np.int64,
    )
