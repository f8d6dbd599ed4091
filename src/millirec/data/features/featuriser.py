"""`Featuriser`: facts become features. The one definition, for training rows and for live requests."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.catalog import Catalog
from millirec.data.errors import ArtifactError, DataError
from millirec.data.features import learned as learn
from millirec.data.features.config import (
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
    fixed_values,
)
from millirec.data.features.facts import NEVER, Facts, Needs, recent_of, tally_of
from millirec.data.features.keys import Keys
from millirec.data.features.learned import Learned
from millirec.data.features.ragged import Ragged
from millirec.data.features.schema import Features, ListSpace, Schema, SequenceSpace, Space
from millirec.data.features.sources import Sources, distinct_texts, gathered, mixed, rows_of

_HOUR, _DAY = 3_600_000, 86_400_000
ScaledField = NumericField | AgeField | GapField | MomentField | CounterField
"""The features that are numbers before they are scaled or put into buckets."""


class Featuriser:
    """Fields and what they have learned, over two catalogues. `features` is a pure function of `Facts`."""

    def __init__(
        self, fields: Iterable[FieldConfig], learned: dict[str, Learned], users: Catalog, items: Catalog
    ) -> None:
        """`learned`: by the name of the field. Raises ArtifactError when it does not fit the fields."""
        self.fields, self.learned = tuple(fields), learned
        self.users, self.items = users, items
        if learned.keys() != {field.name for field in self.fields}:
            raise ArtifactError("what was learned is of other features than those declared", "train the ranker again")
        self.needs, self.keys = Needs.of(self.fields), Keys(users, items)
        self.fixed = fixed_values(self.fields)
        self.sources = Sources(users, items)
        # of categorical features of a catalogue, the id of each of its rows
        self.ids_by_row = {field.name: self._table(field) for field in self.fields}
        self._lists = {field.name: self._list_of(field) for field in self.fields if isinstance(field, MultiValuedField)}

    @classmethod
    def fit(
        cls, fields: Iterable[FieldConfig], facts: Facts, labels: NDArray[Any], users: Catalog, items: Catalog
    ) -> "Featuriser":
        """Learn vocabularies, scales and priors from training rows and their labels (n,) of 0 and 1.

        Raises ConfigError for a source that the catalogues do not have, DataError when the context lacks one.
        """
        fields = tuple(fields)
        if not len(facts):
            raise DataError("no training rows to learn features from", "use more data, or another split")
        learner = _Learner(facts, float(np.mean(labels)), Sources(users, items))
        return cls(fields, {field.name: learner.learned(field) for field in fields}, users, items)

    def without(self, names: Collection[str]) -> "Featuriser":
        """The other fields, with what they have learned. A sequence cannot stay without the field that it is `of`."""
        fields = [field for field in self.fields if field.name not in names]
        return Featuriser(fields, {field.name: self.learned[field.name] for field in fields}, self.users, self.items)

    def schema(self) -> Schema:
        """What a ranker must know to be built."""
        places = {f.name: i for i, f in enumerate(f for f in self.fields if is_categorical(f))}
        return Schema(
            categorical=tuple(Space(name=f.name, size=self._size(f)) for f in self.fields if is_categorical(f)),
            lists=tuple(
                ListSpace(name=f.name, size=self._size(f), width=f.max_values)
                for f in self.fields
                if isinstance(f, MultiValuedField)
            ),
            numbers=tuple(f.name for f in self.fields if isinstance(f, ScaledField) and f.scale != "buckets"),
            sequences=tuple(
                SequenceSpace(name=f.name, length=f.length, of=places[f.of])
                for f in self.fields
                if isinstance(f, SequenceField)
            ),
        )

    def features(self, facts: Facts, *, logged: bool = False) -> Features:
        """The features of n rows. Rows do not see each other: n rows at once are n times one row.

        `logged`: the rows are of a log, to be learned from or measured; else a request's, and `fixed` counts.
        """
        n = len(facts)
        if self.fixed and not logged:
            fixed = {name: np.full(n, value, object) for name, value in self.fixed.items()}
            facts = replace(facts, context={**facts.context, **fixed})
        ids = [self.ids(f, facts) for f in self.fields if is_categorical(f)]
        numbers = [self.scaled(f, facts) for f in self.fields if isinstance(f, ScaledField) and f.scale != "buckets"]
        return Features(
            np.stack(ids, axis=1) if ids else np.zeros((n, 0), np.int32),
            np.stack(numbers, axis=1) if numbers else np.zeros((n, 0), np.float32),
            tuple(self.listed(f, facts) for f in self.fields if isinstance(f, MultiValuedField)),
            tuple(
                facts.histories[recent_of(f)].mapped(self.ids_by_row[f.of])
                for f in self.fields
                if isinstance(f, SequenceField)
            ),
        )

    def scaled(self, field: "ScaledField", facts: Facts) -> NDArray[np.float32]:
        """The number of each row (n,) as the network reads it."""
        own = self.learned[field.name]
        return learn.scaled(number(field, facts, self.sources, own.prior), field.scale, own)

    def _size(self, field: FieldConfig) -> int:
        match field:
            case HashedField() | CrossField():
                return field.size
            case ClockField():
                return 24 if field.part == "hour" else 7
            case NumericField() | AgeField() | GapField() | MomentField() | CounterField():
                return len(self.learned[field.name].edges) + 1
        return len(self.learned[field.name].values)

    def ids(self, field: FieldConfig, facts: Facts) -> NDArray[np.int32]:
        """The id of each row (n,) in a categorical feature."""
        at = f"$.features.{field.name}"
        match field:
            case CategoricalField():
                return self._vocabulary_ids(field, facts)
            case HashedField():
                return _places(self.sources.hashes(field.source, facts, at), field.size)
            case CrossField():
                parts = [self.sources.hashes(source, facts, at) for source in field.sources]
                return _places(mixed(parts), field.size)
            case ClockField():
                return np.asarray(clock_id(field, facts.now), np.int32)
            case NumericField() | AgeField() | GapField() | MomentField() | CounterField():
                own = self.learned[field.name]
                return learn.bucketed(number(field, facts, self.sources, own.prior), own)
        raise AssertionError(field)

    def _vocabulary_ids(self, field: CategoricalField, facts: Facts) -> NDArray[np.int32]:
        if not field.source.startswith("context."):
            found: NDArray[np.int32] = gathered(self.ids_by_row[field.name], rows_of(field.source, facts), 0)
            return found
        values, places = distinct_texts(facts, field.source)
        return _ids_of(values, self.learned[field.name].values)[places]

    def _table(self, field: FieldConfig) -> NDArray[np.int32]:
        """The id of each catalogue row, for a categorical field of a catalogue; else nothing."""
        if not isinstance(field, CategoricalField) or field.source.startswith("context."):
            return np.zeros(1, np.int32)
        values, codes = self.sources.coded(field.source, field.at("source"))
        ids = _ids_of(values, self.learned[field.name].values)
        return np.concatenate([ids, np.zeros(1, np.int32)])[codes]

    def _list_of(self, field: MultiValuedField) -> Ragged:
        feature = self.sources.lists(field.source, field.at("source"))
        offsets = feature.offsets.astype(np.int64)
        rows = Ragged(feature.codes, offsets[:-1], offsets[1:])
        return rows.mapped(_ids_of(feature.values, self.learned[field.name].values)).first(field.max_values)

    def listed(self, field: MultiValuedField, facts: Facts) -> Ragged:
        """The ids of each row in a multi-valued feature."""
        rows, whole = rows_of(field.source, facts), self._lists[field.name]
        return whole.take(np.where(rows < len(whole), rows, 0))


def clock_id(field: ClockField, now: Any) -> Any:
    """The id of a time (ms, scalar or array)."""
    moved = now + field.offset_hours * _HOUR
    return moved // _HOUR % 24 + 1 if field.part == "hour" else (moved // _DAY + 3) % 7 + 1  # day 0 was a Thursday


def is_categorical(field: FieldConfig) -> bool:
    """Whether a network reads this feature as an id."""
    plain = CategoricalField | HashedField | ClockField | CrossField
    return isinstance(field, plain) or (isinstance(field, ScaledField) and field.scale == "buckets")


class _Learner:
    """Learns the fields one by one from the training rows."""

    def __init__(self, facts: Facts, prior: float, sources: Sources) -> None:
        self._facts, self._prior, self._sources = facts, prior, sources

    def learned(self, field: FieldConfig) -> Learned:
        self._check_context(field)
        match field:
            case CategoricalField():
                return Learned(values=self._vocabulary(field))
            case MultiValuedField():
                return Learned(values=self._list_vocabulary(field))
            case HashedField():
                self._sources.hashes(field.source, self._facts, field.at("source"))
            case CrossField():
                for source in field.sources:
                    self._sources.hashes(source, self._facts, field.at("sources"))
            case NumericField() | AgeField() | GapField() | MomentField() | CounterField():
                numbers = number(field, self._facts, self._sources, self._prior)
                own = learn.scale_of(numbers, field.scale, field.buckets)
                return msgspec.structs.replace(own, prior=self._prior) if isinstance(field, CounterField) else own
        return Learned()

    def _check_context(self, field: FieldConfig) -> None:
        sources = [getattr(field, "source", ""), *getattr(field, "sources", ())]
        for source in sources:
            if source.startswith("context.") and source.removeprefix("context.") not in self._facts.context:
                raise DataError(f"{field.at('source')}: the training rows have no {source}", "log it, or leave it out")

    def _vocabulary(self, field: CategoricalField) -> tuple[str, ...]:
        if field.source.startswith("context."):
            values, places = distinct_texts(self._facts, field.source)
        else:
            values, codes = self._sources.coded(field.source, field.at("source"))
            places = gathered(codes, rows_of(field.source, self._facts), -1)
        counts = np.bincount(places[places >= 0], minlength=len(values))
        return learn.vocabulary(values, counts, field.min_count, field.max_size)

    def _list_vocabulary(self, field: MultiValuedField) -> tuple[str, ...]:
        feature = self._sources.lists(field.source, field.at("source"))
        rows = rows_of(field.source, self._facts)
        times = np.bincount(rows, minlength=len(feature.offsets) - 1)[: len(feature.offsets) - 1]
        each = np.repeat(times, np.diff(feature.offsets))
        counts = np.bincount(feature.codes, each, minlength=len(feature.values)).astype(np.int64)
        return learn.vocabulary(feature.values, counts, field.min_count, field.max_size)


def number(field: ScaledField, facts: Facts, sources: Sources, prior: float) -> NDArray[np.float64]:
    """The number of each row (n,) before its scale, NaN = missing."""
    match field:
        case NumericField():
            return sources.numbers(field.source, facts, field.at("source"))
        case CounterField():
            return counted(field, facts.counts[tally_of(field)], prior)
        case AgeField():
            return _since(facts.first, facts.now) / _HOUR
        case GapField():
            return _since(facts.last, facts.now) / 1000
        case MomentField():
            return facts.now / _DAY


def counted(field: CounterField, sums: NDArray[np.integer[Any]], prior: float) -> NDArray[np.float64]:
    """What a counter makes of events, positives and negatives, (n, 3); `prior`: the share of positives."""
    counts = sums.astype(np.float64)
    events, positives, labelled = counts[:, 0], counts[:, 1], counts[:, 1] + counts[:, 2]
    if field.what != "rate":
        return events if field.what == "events" else positives
    above, below = positives + field.smoothing * prior, labelled + field.smoothing
    return np.where(below > 0, above / np.where(below > 0, below, 1), prior)


def _since(moments: NDArray[np.int64] | None, now: NDArray[np.int64]) -> NDArray[np.float64]:
    if moments is None:
        raise DataError("these facts were gathered for other features", "gather them with Featuriser.needs")
    known = moments != NEVER
    return np.where(known, (now - np.where(known, moments, now)).astype(np.float64), np.nan)


def _ids_of(values: Iterable[str], known: tuple[str, ...]) -> NDArray[np.int32]:
    place = {value: i for i, value in enumerate(known, start=1)}
    return np.array([place.get(value, 0) for value in values], np.int32)


def _places(hashes: NDArray[np.uint64], size: int) -> NDArray[np.int32]:
    return np.where(hashes == 0, 0, hashes % np.uint64(size) + np.uint64(1)).astype(np.int32)
