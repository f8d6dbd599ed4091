"""`Sources`: the values of users, items and requests that features are made of."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millirec.data.catalog import Catalog, Categorical, Feature, MultiValued, Numeric
from millirec.data.errors import ConfigError, DataError
from millirec.data.features.facts import Facts


class Sources:
    """Columns of the two catalogues by name, such as "item.year", and those of a request's context.

    Catalogue columns have a value a catalogue row; what belongs to rows behind its end is missing.
    """

    def __init__(self, users: Catalog, items: Catalog) -> None:
        self.users, self.items = users, items
        self._hashes: dict[str, NDArray[np.uint64]] = {}

    def feature(self, source: str, at: str) -> Feature:
        """The feature of a catalogue. Raises ConfigError, which calls the setting `at`, when there is none."""
        kind, _, name = source.partition(".")
        catalog = self.users if kind == "user" else self.items
        if name not in catalog.features:
            raise ConfigError(f"{at}: {kind}s have no feature {name!r}", f"use one of {list(catalog.features)}")
        return catalog.features[name]

    def coded(self, source: str, at: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Values of a column, and for each catalogue row the place of its own, -1 = missing.

        Ids, categorical features, and numbers (as they are written). Raises ConfigError for others.
        """
        kind, _, name = source.partition(".")
        if not name:
            catalog = self.users if kind == "user" else self.items
            return catalog.vocabulary.ids, np.arange(-1, len(catalog), dtype=np.int64)
        match self.feature(source, at):
            case Categorical(values, codes):
                return values, codes.astype(np.int64)
            case Numeric(numbers) if numbers.ndim == 1:
                known = ~np.isnan(numbers)
                distinct, places = np.unique(numbers[known], return_inverse=True)
                out = np.full(len(numbers), -1, np.int64)
                out[known] = places
                return tuple(text(value) for value in distinct.tolist()), out
        raise ConfigError(f"{at}: {source!r} has no single value", "choose a categorical feature, or kind = 'multi'")

    def lists(self, source: str, at: str) -> MultiValued:
        """A multi-valued feature. Raises ConfigError for others."""
        feature = self.feature(source, at)
        if not isinstance(feature, MultiValued):
            raise ConfigError(f"{at}: {source!r} is not multi-valued", "choose kind = 'categorical' or 'numeric'")
        return feature

    def numbers(self, source: str, facts: Facts, at: str) -> NDArray[np.float64]:
        """The number of each row (n,), NaN = missing or infinite."""
        if source.startswith("context."):
            return context_numbers(source, facts.context, len(facts))
        feature = self.feature(source, at)
        if not isinstance(feature, Numeric) or feature.numbers.ndim != 1:
            raise ConfigError(f"{at}: {source!r} is not a number", "choose kind = 'categorical' or 'multi'")
        return _finite(gathered(feature.numbers.astype(np.float64), rows_of(source, facts), np.nan))

    def hashes(self, source: str, facts: Facts, at: str) -> NDArray[np.uint64]:
        """A hash of the value of each row (n,), 0 = missing."""
        if source.startswith("context."):
            values, places = distinct_texts(facts, source)
            return _hashes(values)[places]
        if source not in self._hashes:
            values, codes = self.coded(source, at)
            self._hashes[source] = np.concatenate([_hashes(values), np.zeros(1, np.uint64)])[codes]
        return gathered(self._hashes[source], rows_of(source, facts), 0)


def context_numbers(source: str, context: Mapping[str, NDArray[Any]], n: int) -> NDArray[np.float64]:
    """The number of each of n rows that a context tells (n,), NaN = missing or infinite. Raises DataError for texts."""
    column = context.get(source.removeprefix("context."))
    if column is None:
        return np.full(n, np.nan)
    if column.dtype.kind in "fiu":
        return _finite(column.astype(np.float64, copy=False))
    try:
        return _finite(np.array([np.nan if value is None else value for value in column.tolist()], np.float64))
    except (TypeError, ValueError) as error:
        raise DataError(f"{source}: not a number ({error})", "send numbers, or leave it out") from error


def _finite(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """An infinite number tells no more than a missing one."""
    if math.isfinite(numbers.sum()):  # the usual case, in one pass
        return numbers
    return np.where(np.isfinite(numbers), numbers, np.nan)


def rows_of(source: str, facts: Facts) -> NDArray[np.int64]:
    """The catalogue rows that a source belongs to, (n,)."""
    return facts.users if source.partition(".")[0] == "user" else facts.items


def gathered(column: NDArray[Any], rows: NDArray[np.int64], missing: Any) -> NDArray[Any]:
    """`column[rows]`, `missing` where a row lies behind its end."""
    return np.where(rows < len(column), column[np.minimum(rows, len(column) - 1)], missing).astype(column.dtype)


def distinct_texts(facts: Facts, source: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """The different values of a context column as texts ("" = missing), and the place of each row's own (n,)."""
    column = facts.context.get(source.removeprefix("context."))
    if column is None:
        return ("",), np.zeros(len(facts), np.int64)
    texts = [text(value) for value in column.tolist()]
    values = tuple(dict.fromkeys(texts))
    place = {value: i for i, value in enumerate(values)}
    return values, np.fromiter((place[value] for value in texts), np.int64, len(texts))


def text(value: object) -> str:
    """A value as it is compared with others: 3 and 3.0 are the same, None and NaN are missing ("")."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.15g}" if isinstance(value, int | float) else str(value)


def _hashes(values: Iterable[str]) -> NDArray[np.uint64]:
    """The same on every machine and in every process; "" = 0."""
    digests = [hashlib.blake2b(value.encode(), digest_size=8).digest() if value else bytes(8) for value in values]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def mixed(hashes: list[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """Several hashes as one that depends on their order; 0 where one of them is 0. After splitmix64 (Steele 2014)."""
    out = np.zeros(len(hashes[0]), np.uint64)
    for part in hashes:
        out = (out ^ part) + np.uint64(0x9E3779B97F4A7C15)
        out = (out ^ (out >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        out = (out ^ (out >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out ^= out >> np.uint64(31)
    out[np.any([part == 0 for part in hashes], axis=0)] = 0
    return out
