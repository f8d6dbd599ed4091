"""`Keys`: what a counter counts by, as whole numbers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from millirec.data.catalog import Catalog, Categorical
from millirec.data.errors import ConfigError


class Keys:
    """Sources of user and item to numbers: the row itself, or 1 + the code of a categorical feature (0 = missing).

    Rows behind the catalogue's end are people or things that it does not know yet: they count as themselves, and have
    no features.
    """

    def __init__(self, users: Catalog, items: Catalog) -> None:
        self._catalogs = {"user": users, "item": items}
        self._codes: dict[str, NDArray[np.int64]] = {}

    def check(self, source: str, at: str) -> None:
        """Raises ConfigError, which calls the setting `at`, when a source cannot be counted by."""
        kind, _, name = source.partition(".")
        if name and not isinstance(self._catalogs[kind].features.get(name), Categorical):
            known = [n for n, f in self._catalogs[kind].features.items() if isinstance(f, Categorical)]
            raise ConfigError(f"{at}: {source!r} is no categorical feature", f"use one of {known} of the {kind}s")

    def of(
        self, by: Sequence[str], users: NDArray[np.int64], items: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], ...]:
        """The parts of the key of each row, (n,) each."""
        rows = {"user": users, "item": items}
        return tuple(self._part(source, rows[source.partition(".")[0]]) for source in by)

    def _part(self, source: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        kind, _, name = source.partition(".")
        if not name:
            return rows
        if source not in self._codes:
            self.check(source, "$.features")
            feature = self._catalogs[kind].features[name]
            assert isinstance(feature, Categorical)  # noqa: S101  (checked above)
            self._codes[source] = feature.codes.astype(np.int64) + 1
        codes = self._codes[source]
        return np.where(rows < len(codes), codes[np.minimum(rows, len(codes) - 1)], 0)
