"""Columns of catalogues: ids and features of items and users."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from millirec.data.catalog import Catalog, Categorical, Feature, MultiValued, Numeric, Text, Vocabulary
from millirec.data.compact.floats import Floats
from millirec.data.compact.form import Form, bounded, parting
from millirec.data.compact.packing import Ints, Reader, Writer
from millirec.data.compact.strings import StringColumn, strings_of


class CategoricalColumn(Form, frozen=True, tag="categorical"):
    """One value an entry: `values` of which `n_values` are distinct, and codes, -1 = missing."""

    n_values: int
    values: StringColumn
    codes: Ints

    @classmethod
    def of(cls, feature: Categorical, parts: Writer) -> "CategoricalColumn":
        """Write it."""
        return cls(len(feature.values), strings_of(feature.values, parts), Ints.of(feature.codes, parts))

    def read(self, rows: int, parts: Reader) -> Categorical:
        """A column of `rows` entries."""
        values = self.values.read(self.n_values, parts)
        return Categorical(values, _codes(self.codes, rows, -1, self.n_values, parts))


class MultiColumn(Form, frozen=True, tag="multi"):
    """Several values an entry: codes, entry by entry, and how many each has."""

    n_values: int
    values: StringColumn
    codes: Ints
    lengths: Ints

    @classmethod
    def of(cls, feature: MultiValued, parts: Writer) -> "MultiColumn":
        """Write it."""
        values = strings_of(feature.values, parts)
        lengths = np.diff(feature.offsets)
        return cls(len(feature.values), values, Ints.of(feature.codes, parts), Ints.of(lengths, parts))

    def read(self, rows: int, parts: Reader) -> MultiValued:
        """A column of `rows` entries."""
        values = self.values.read(self.n_values, parts)
        codes = _codes(self.codes, bounded(self.codes.count, 2**31 - 1), 0, self.n_values, parts)
        lengths = parting(self.lengths.read(parts, rows), len(codes))
        return MultiValued(values, codes, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


class NumericColumn(Form, frozen=True, tag="numeric"):
    """A number or a vector an entry."""

    numbers: Floats

    @classmethod
    def of(cls, feature: Numeric, parts: Writer) -> "NumericColumn":
        """Write it."""
        return cls(Floats.of(feature.numbers, parts))

    def read(self, rows: int, parts: Reader) -> Numeric:
        """A column of `rows` entries."""
        return Numeric(self.numbers.read(rows, parts))


class TextColumn(Form, frozen=True, tag="text"):
    """A text an entry."""

    texts: StringColumn

    @classmethod
    def of(cls, feature: Text, parts: Writer) -> "TextColumn":
        """Write it."""
        return cls(strings_of(feature.texts, parts))

    def read(self, rows: int, parts: Reader) -> Text:
        """A column of `rows` entries."""
        return Text(self.texts.read(rows, parts))


FeatureColumn = CategoricalColumn | MultiColumn | NumericColumn | TextColumn


class CatalogColumns(Form, frozen=True, tag="catalog"):
    """`entries` ids and their features."""

    entries: int
    ids: StringColumn
    features: dict[str, FeatureColumn]

    @classmethod
    def of(cls, catalog: Catalog, parts: Writer) -> "CatalogColumns":
        """Write it."""
        ids = strings_of(catalog.vocabulary.ids, parts)
        return cls(len(catalog), ids, {name: _written(feature, parts) for name, feature in catalog.features.items()})

    def read(self, parts: Reader) -> Catalog:
        """The catalogue."""
        vocabulary = Vocabulary(self.ids.read(self.entries, parts))
        return Catalog(vocabulary, {name: own.read(self.entries + 1, parts) for name, own in self.features.items()})


def _written(feature: Feature, parts: Writer) -> FeatureColumn:
    match feature:
        case Categorical():
            return CategoricalColumn.of(feature, parts)
        case MultiValued():
            return MultiColumn.of(feature, parts)
        case Numeric():
            return NumericColumn.of(feature, parts)
        case Text():
            return TextColumn.of(feature, parts)


def _codes(column: Ints, count: int, least: int, stop: int, parts: Reader) -> NDArray[np.int32]:
    codes: NDArray[Any] = column.read(parts, count)
    if len(codes) and not least <= codes.min() <= codes.max() < stop:
        raise ValueError("a code without a value")
    return codes.astype(np.int32)
