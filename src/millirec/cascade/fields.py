"""`Fields`: the newest values of items' features: those of the catalogue, and what updates have told since."""

import threading
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from millirec.data.catalog import Catalog, Categorical, MultiValued, Numeric
from millirec.data.errors import QueryError

Mask = NDArray[np.bool_]
_CACHE_BYTES = 64 << 20


class Membership(NamedTuple):
    """Which of some items have which value: `has` bool (n, V) for the V `values` that occur among them."""

    values: tuple[str, ...]
    has: Mask


class Fields:
    """Features by name; thread-safe. An update counts for every look-up that begins after it."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog, self._lock = catalog, threading.Lock()
        self._texts: dict[str, dict[int, tuple[str, ...]]] = {}
        self._numbers: dict[str, dict[int, float]] = {}
        self._masks: dict[tuple[str, str], Mask] = {}

    @property
    def n_rows(self) -> int:
        """Items of the catalogue, and 1 for padding."""
        return len(self._catalog) + 1

    def update(self, row: int, fields: Mapping[str, object]) -> None:
        """Take in newer fields of one row: texts and lists of texts as values, numbers as numbers."""
        with self._lock:
            for name, value in fields.items():
                if isinstance(value, str | list):
                    values = (value,) if isinstance(value, str) else tuple(value)
                    self._texts.setdefault(name, {})[row] = values
                elif isinstance(value, int | float) and not isinstance(value, bool):
                    self._numbers.setdefault(name, {})[row] = float(value)
            self._masks = {}

    def names(self) -> list[str]:
        """The features that have values to match, in order."""
        known = {name for name, one in self._catalog.features.items() if isinstance(one, Categorical | MultiValued)}
        return sorted(known | set(self._texts))

    def matches(self, name: str, value: str) -> Mask:
        """Which rows have `value` in the feature `name`, bool (n_items + 1,). Raises QueryError for an unknown one."""
        mask = self._masks.get((name, value))
        if mask is not None:
            return mask
        with self._lock:
            newer = self._texts.get(name, {})
            try:
                mask = self._catalog.matches(name, value)
            except KeyError as error:
                if not newer:
                    names = self.names()
                    raise QueryError(
                        f"where: items have no feature {name!r} with values to match",
                        f"use one of {names}" if names else "leave `where` out",
                    ) from error
                mask = np.zeros(len(self._catalog) + 1, np.bool_)
            for row, values in newer.items():
                mask[row] = value in values
            mask[0] = False
            if len(self._masks) * len(mask) > _CACHE_BYTES:
                self._masks = {}
            self._masks[name, value] = mask
        return mask

    def numbers(self, name: str) -> NDArray[np.float32]:
        """The numbers of all rows, float32 (n_items + 1,), NaN where unknown. Raises QueryError for an unknown name."""
        feature = self._catalog.features.get(name)
        with self._lock:
            newer = self._numbers.get(name, {})
            if isinstance(feature, Numeric) and feature.numbers.ndim == 1:
                if not newer:
                    return feature.numbers
                out = feature.numbers.copy()
            elif newer:
                out = np.full(len(self._catalog) + 1, np.nan, np.float32)
            else:
                known = self._catalog.features.items()
                names = sorted(n for n, f in known if isinstance(f, Numeric) and f.numbers.ndim == 1)
                raise QueryError(
                    f"where: items have no feature {name!r} with numbers to compare",
                    f"use one of {names}" if names else "leave `at_least` and `at_most` out",
                )
            out[list(newer)] = list(newer.values())
        return out

    def of(self, name: str, rows: NDArray[np.int32]) -> Membership:
        """The values of `rows` (n,) in the feature `name`; none at all when nothing has such a feature."""
        places, codes, values = self._known(self._catalog.features.get(name), rows)
        present, local = np.unique(codes, return_inverse=True)
        has = np.zeros((len(rows), len(present)), np.bool_)
        has[places, local] = True
        told = [values[code] for code in present.tolist()]
        with self._lock:
            newer = self._texts.get(name, {})
            own = {place: newer[row] for place, row in enumerate(rows.tolist()) if row in newer} if newer else {}
        if not own:
            return Membership(tuple(told), has)
        column = {value: at for at, value in enumerate(told)}
        for value in (value for found in own.values() for value in found):
            column.setdefault(value, len(column))
        has = np.concatenate([has, np.zeros((len(rows), len(column) - len(told)), np.bool_)], axis=1)
        for place, found in own.items():
            has[place] = False
            has[place, [column[value] for value in found]] = True
        return Membership(tuple(column), has)

    @staticmethod
    def _known(
        feature: object, rows: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], tuple[str, ...]]:
        """What the catalogue says: places in `rows`, codes, and what codes mean."""
        if isinstance(feature, Categorical):
            codes = feature.codes[rows]
            places = np.flatnonzero(codes >= 0)
            return places, codes[places], feature.values
        if isinstance(feature, MultiValued):
            starts = feature.offsets[rows].astype(np.int64)
            counts = feature.offsets[rows + 1] - starts
            places = np.repeat(np.arange(len(rows)), counts)
            within = np.arange(len(places)) - np.repeat(counts.cumsum() - counts, counts)
            return places, feature.codes[starts[places] + within], feature.values
        return np.empty(0, np.int64), np.empty(0, np.int32), ()
