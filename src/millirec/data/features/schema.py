"""`Schema`: what a ranker must know of its features to be built. `Features`: the arrays of rows, as it eats them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.features.ragged import Ragged


class Space(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A categorical feature: ids 0 (unknown) to `size`."""

    name: str
    size: int


class ListSpace(Space, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A multi-valued feature: at most `width` ids 1 to `size` a row."""

    width: int


class SequenceSpace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At most `length` ids a row of the categorical feature at place `of`."""

    name: str
    length: int
    of: int


class Schema(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The features in the order in which `Features` holds them."""

    categorical: tuple[Space, ...] = ()
    lists: tuple[ListSpace, ...] = ()
    numbers: tuple[str, ...] = ()
    sequences: tuple[SequenceSpace, ...] = ()


@dataclass(frozen=True)
class Features:
    """Rows of features. `ids` int32 (n, categorical), `numbers` float32 (n, numbers); a `Ragged` of ids of n rows for
    each multi-valued feature and for each sequence (oldest first).
    """

    ids: NDArray[np.int32]
    numbers: NDArray[np.float32]
    lists: tuple[Ragged, ...] = ()
    sequences: tuple[Ragged, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, which: NDArray[Any]) -> "Features":
        """These rows only."""
        lists, sequences = (tuple(r.take(which) for r in kind) for kind in (self.lists, self.sequences))
        return Features(self.ids[which], self.numbers[which], lists, sequences)

    def without(self, names: Collection[str], schema: Schema) -> "Features":
        """The other features of those in `schema`, which is of these rows."""

        def stay(own: Iterable[str]) -> list[int]:
            return [place for place, name in enumerate(own) if name not in names]

        return Features(
            self.ids[:, stay(space.name for space in schema.categorical)],
            self.numbers[:, stay(schema.numbers)],
            tuple(self.lists[place] for place in stay(space.name for space in schema.lists)),
            tuple(self.sequences[place] for place in stay(space.name for space in schema.sequences)),
        )

    def to_bytes(self) -> bytes:
        """All of it, row after row: equal bytes are equal features."""
        parts = [self.ids.tobytes(), self.numbers.tobytes()]
        for rows in (*self.lists, *self.sequences):
            parts += [array.tobytes() for array in rows.packed()]
        return b"".join(parts)
