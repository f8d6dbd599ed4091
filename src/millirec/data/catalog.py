"""`Vocabulary` and `Catalog`: items (or users) as rows with their features.

Row 0 is padding and "unknown"; real entries have rows 1..n. Every array over a catalogue has n + 1 rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.errors import ArtifactError, DataError
from millirec.data.tensors import load_tensors, save_tensors

_FILE, _HEAD, _IDS = "catalog.safetensors", "__head__", "__ids__"


class Vocabulary:
    """Outside id <-> row. Ids are strings; rows are 1..n in the order given; 0 is the unknown."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids: tuple[str, ...] = tuple(ids)
        self._rows = {name: row for row, name in enumerate(self.ids, start=1)}
        if len(self._rows) != len(self.ids):
            raise DataError("vocabulary: the same id stands twice", "give every item one id")

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def row(self, name: str) -> int:
        """The row of an id, 0 when unknown."""
        return self._rows.get(name, 0)

    def rows(self, names: Iterable[str]) -> NDArray[np.int32]:
        """The rows of several ids, shape (n,), 0 where unknown."""
        return np.fromiter(map(self._rows.get, names, repeat(0)), np.int32)

    def id(self, row: int) -> str:
        """The id of a row in 1..n. Raises IndexError for others."""
        if row < 1:
            raise IndexError("row 0 is padding and has no id")
        return self.ids[row - 1]


@dataclass(frozen=True, slots=True)
class Categorical:
    """One value an entry. `codes` int32 (n + 1,): index into `values`, -1 = missing."""

    values: tuple[str, ...]
    codes: NDArray[np.int32]
    kind: Literal["categorical"] = "categorical"


@dataclass(frozen=True, slots=True)
class MultiValued:
    """Several values an entry, sparse. `codes[offsets[row]:offsets[row + 1]]` index into `values`.

    `offsets` int32 (n + 2,).
    """

    values: tuple[str, ...]
    codes: NDArray[np.int32]
    offsets: NDArray[np.int32]
    kind: Literal["multi"] = "multi"


@dataclass(frozen=True, slots=True)
class Numeric:
    """One number an entry, or a vector. `numbers` float32 (n + 1,) or (n + 1, d), NaN = missing."""

    numbers: NDArray[np.float32]
    kind: Literal["numeric"] = "numeric"


@dataclass(frozen=True, slots=True)
class Text:
    """One text an entry; `texts` has n + 1 strings, "" = missing."""

    texts: tuple[str, ...]
    kind: Literal["text"] = "text"


Feature = Categorical | MultiValued | Numeric | Text


@dataclass(frozen=True)
class Catalog:
    """Entries as rows with their features. `features[name]` holds one column of n + 1 rows."""

    vocabulary: Vocabulary
    features: Mapping[str, Feature] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.vocabulary)

    def matches(self, name: str, value: str) -> NDArray[np.bool_]:
        """Which rows have `value` in the categorical or multi-valued feature `name`; bool (n + 1,).

        Raises KeyError when there is no such feature or it is neither categorical nor multi-valued.
        """
        feature = self.features[name]
        out = np.zeros(len(self) + 1, np.bool_)
        if isinstance(feature, Categorical | MultiValued):
            if value not in feature.values:
                return out
            code = feature.values.index(value)
            if isinstance(feature, Categorical):
                same: NDArray[np.bool_] = feature.codes == code
                return same
            at = np.flatnonzero(feature.codes == code)
            out[np.searchsorted(feature.offsets, at, side="right") - 1] = True
            return out
        raise KeyError(name)

    def only(self, names: Iterable[str]) -> "Catalog":
        """The same entries with these features alone."""
        return Catalog(self.vocabulary, {name: self.features[name] for name in names})

    def save(self, folder: Path, name: str = _FILE) -> None:
        """Write a file into `folder`, `catalog.safetensors` unless it is to have another `name`."""
        arrays: dict[str, NDArray[np.generic]] = {"__rows__": np.array([len(self) + 1], np.int64)}
        columns = {}
        for key, feature in self.features.items():
            column: dict[str, Any] = {"kind": feature.kind}
            match feature:
                case Categorical(values, codes):
                    column |= {"values": values}
                    arrays[f"{key}.codes"] = codes
                case MultiValued(values, codes, offsets):
                    column |= {"values": values}
                    arrays |= {f"{key}.codes": codes, f"{key}.offsets": offsets}
                case Numeric(numbers):
                    arrays[f"{key}.numbers"] = numbers
                case Text(texts):
                    column |= {"texts": texts}
            columns[key] = column
        ids, whole = self.vocabulary.ids, _whole_numbers(self.vocabulary.ids)
        if whole is not None:
            ids, arrays[_IDS] = (), whole
        head = msgspec.json.encode({"ids": ids, "columns": columns})
        save_tensors(arrays | {_HEAD: np.frombuffer(head, np.uint8)}, folder / name)

    @classmethod
    def load(cls, folder: Path, name: str = _FILE) -> "Catalog":
        """The inverse of `save`. Raises ArtifactError when a file is missing or damaged."""
        try:
            arrays = load_tensors(folder / name)
            told = arrays.pop(_HEAD, None)  # in a file of its own in the first version
            raw = (folder / "catalog.json").read_bytes() if told is None else told.tobytes()
            head = msgspec.json.decode(raw, type=_Head)
            ids = tuple(map(str, _typed(arrays[_IDS]).tolist())) if _IDS in arrays else head.ids
            features = {key: _feature(key, column, arrays) for key, column in head.columns.items()}
        except (OSError, KeyError, ValueError, ArtifactError, msgspec.MsgspecError) as error:
            raise ArtifactError(
                f"{folder.name}/catalog: cannot be read ({error})", "make the artifact again"
            ) from error
        return cls(Vocabulary(ids), features)


class _Column(msgspec.Struct):
    kind: Literal["categorical", "multi", "numeric", "text"]
    values: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


class _Head(msgspec.Struct):
    ids: tuple[str, ...]
    columns: dict[str, _Column]


def _whole_numbers(ids: tuple[str, ...]) -> NDArray[np.int64] | None:
    """Ids that are numbers, (n,), which take far fewer bytes than their digits; None where one is written otherwise."""
    try:
        numbers = np.array([int(name) for name in ids], np.int64)
    except (ValueError, OverflowError):
        return None
    return numbers if tuple(map(str, numbers.tolist())) == ids else None


def _typed(numbers: NDArray[np.generic]) -> NDArray[np.generic]:
    if numbers.ndim != 1 or numbers.dtype != np.int64:
        raise ValueError(f"ids of type {numbers.dtype}")
    return numbers


def _feature(name: str, column: _Column, arrays: dict[str, NDArray[np.generic]]) -> Feature:
    match column.kind:
        case "categorical":
            return Categorical(column.values, arrays[f"{name}.codes"].astype(np.int32))
        case "multi":
            codes, offsets = arrays[f"{name}.codes"], arrays[f"{name}.offsets"]
            return MultiValued(column.values, codes.astype(np.int32), offsets.astype(np.int32))
        case "numeric":
            return Numeric(arrays[f"{name}.numbers"].astype(np.float32))
        case "text":
            return Text(column.texts)
