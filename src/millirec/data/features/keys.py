"""`Keys`: what a counter counts by, as whole numbers."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from millirec.data.catalog import Catalog
from millirec.data.features.config import CounterField, FieldConfig
from millirec.data.features.sources import Sources, gathered


class Keys:
    """Sources of user and item to numbers: the row itself, or 1 + the place of a feature's value (0 = missing).

    Rows behind the catalogue's end are people or things that it does not know yet: they count as themselves, and have
    no features.
    """

    def __init__(self, users: Catalog, items: Catalog) -> None:
        self._sources = Sources(users, items)
        self._places: dict[str, NDArray[np.int64]] = {}

    def check(self, fields: Iterable[FieldConfig]) -> None:
        """Raises ConfigError when a counter counts by what the catalogues do not have, or by several values."""
        for field in fields:
            for source in field.by if isinstance(field, CounterField) else ():
                self._sources.coded(source, field.at("by"))

    def of(
        self, sources: Iterable[str], users: NDArray[np.int64], items: NDArray[np.int64]
    ) -> dict[str, NDArray[np.int64]]:
        """For each source the number of each row, (n,)."""
        return {source: self._part(source, users if source.startswith("user") else items) for source in sources}

    def of_one(self, sources: Iterable[str], user: int, item: int) -> dict[str, int]:
        """For each source the number of one user and one item."""
        out = {}
        for source in sources:
            row = user if source.startswith("user") else item
            if "." in source:
                places = self.places(source)
                row = int(places[row]) if row < len(places) else 0
            out[source] = row
        return out

    def size(self, source: str) -> int:
        """How many numbers a source has in the catalogues, 0 with them."""
        if "." in source:
            return int(self.places(source).max(initial=0)) + 1
        return 1 + len(self._sources.users if source == "user" else self._sources.items)

    def places(self, source: str) -> NDArray[np.int64]:
        """The number of each catalogue row, for a feature of a catalogue, int64 (n + 1,)."""
        if source not in self._places:
            self._places[source] = self._sources.coded(source, "$.features")[1] + 1
        return self._places[source]

    def _part(self, source: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return gathered(self.places(source), rows, 0) if "." in source else rows
