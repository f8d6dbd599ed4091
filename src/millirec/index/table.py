"""The index whose bytes are those of the item table in the graph: no vector is kept a second time on disk.

Vectors are decoded when the index is loaded, then searched exactly; for catalogues that fit in memory as floats.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np

from millirec.data.codes import PRIME, factors, middle, pack, unpack
from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.tensors import Array
from millirec.index.base import Floats, Matches, Rows
from millirec.index.exact import ExactIndex
from millirec.index.product import decoded

# By table: its arrays, and how many dimensions each has.
_PARTS = {
    "quantized": {"codes": 2, "scale": 2},
    "low-rank": {"weight": 2, "basis": 2},
    "quotient-remainder": {"first": 2, "second": 2},
    "multi": {"first": 2},
    "tiered": {"slots": 2, "fine.codes": 2, "fine.scale": 2, "coarse.codes": 2, "coarse.centroids": 3},
}


class TableIndexConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="table"
):
    """How vectors are made of the table's arrays; see the tables of `models.layers.table`.

    `table`: "quantized" and "tiered" read `bits`, "multi" reads `hashes`. `unit`: vectors are brought to length 1.
    """

    table: Literal["quantized", "low-rank", "quotient-remainder", "multi", "tiered"] = "quantized"
    bits: Literal[2, 4, 8] = 8
    hashes: int = 2
    unit: bool = False

    def __post_init__(self) -> None:
        if self.table not in _PARTS:
            raise ConfigError(f"$.index.table = {self.table!r}", f"use one of {', '.join(_PARTS)}")
        if self.bits not in (2, 4, 8):
            raise ConfigError(f"$.index.bits = {self.bits}", "choose 2, 4 or 8")
        if self.hashes < 1:
            raise ConfigError(f"$.index.hashes = {self.hashes}", "choose at least 1")


class TableIndex:
    """An `ExactIndex` over what the arrays stand for."""

    def __init__(self, arrays: Mapping[str, Array], n_items: int, config: TableIndexConfig) -> None:
        self._arrays = {name: arrays[name] for name in _PARTS[config.table]}
        vectors = _decoded(self._arrays, n_items, config)
        if config.unit:
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        self._exact = ExactIndex(vectors)

    @classmethod
    def build(cls, vectors: Floats, config: TableIndexConfig) -> "TableIndex":
        """Round vectors (n_items + 1, d) to evenly spaced levels, a scale for each row.

        Raises ConfigError for a table that cannot be made from its vectors.
        """
        if config.table != "quantized":
            raise ConfigError(
                f'$.index.table = "{config.table}" is not made from vectors', "pack a model that has such a table"
            )
        if vectors.shape[1] * config.bits % 8:
            raise ConfigError(
                f"$.index.bits = {config.bits}: {vectors.shape[1]} numbers fill no whole bytes", "choose 8"
            )
        top = middle(config.bits)
        fit = np.asarray(np.isfinite(vectors).all(axis=1))
        known = np.where(fit[:, None], vectors, np.float32(0))
        scale = (np.abs(known).max(axis=1, keepdims=True) / top).astype(np.float32)
        levels = np.rint(known / np.where(scale > 0, scale, 1) + top).clip(0, 2**config.bits - 1).astype(np.uint8)
        scale[~fit] = np.nan
        return cls({"codes": pack(levels, config.bits), "scale": scale}, len(vectors) - 1, config)

    @property
    def n_items(self) -> int:
        """Items of the catalogue."""
        return self._exact.n_items

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self._exact.dim

    def search(self, vectors: Floats, k: int) -> Matches:
        """The k best items of each query (B, d), by row where scores are equal."""
        return self._exact.search(vectors, k)

    def scores(self, vectors: Floats, rows: Rows) -> Floats:
        """Inner products (B, C) of each query with its own rows."""
        return self._exact.scores(vectors, rows)

    def vectors(self, rows: Rows) -> Floats:
        """The vectors (n, d) of rows (n,)."""
        return self._exact.vectors(rows)

    def arrays(self) -> dict[str, Array]:
        """The table's own arrays, and `n_items`."""
        return self._arrays | {"n_items": np.array([self.n_items])}

    @classmethod
    def load(cls, arrays: Mapping[str, Array], config: TableIndexConfig) -> "TableIndex":
        """The inverse of `arrays`. Raises ArtifactError when they do not fit one another."""
        try:
            n_items = int(arrays["n_items"][0])
            parts = _PARTS[config.table]
            if any(arrays[name].ndim != axes for name, axes in parts.items()) or arrays["n_items"].dtype.kind != "i":
                raise ValueError("arrays of other shapes")
            return cls(arrays, n_items, config)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise ArtifactError(f"the item index cannot be read ({error})", "pack again") from error


def _decoded(arrays: Mapping[str, Array], n_items: int, config: TableIndexConfig) -> Floats:
    """All vectors (n_items + 1, d). Raises ValueError when the arrays hold another number of items."""
    rows = np.arange(n_items + 1)
    match config.table:
        case "quantized":
            out = _levels(arrays["codes"], arrays["scale"], config.bits)
        case "low-rank":
            out = _typed(arrays["weight"], np.float32) @ _typed(arrays["basis"], np.float32)
        case "quotient-remainder":
            first, second = _typed(arrays["first"], np.float32), _typed(arrays["second"], np.float32)
            out = first[rows % len(first)] * second[rows // len(first)]
        case "tiered":
            out = _in_tiers(arrays, config.bits)
        case _:
            first = _typed(arrays["first"], np.float32)
            places = [(rows * factor + factor // 3) % PRIME % len(first) for factor in factors(config.hashes)]
            out = np.sum([first[place] for place in places], axis=0)
    if len(out) != n_items + 1:
        raise ValueError(f"{len(out) - 1} items instead of {n_items}")
    return out.astype(np.float32, copy=False)


def _levels(codes: Array, scale: Array, bits: int) -> Floats:
    """Evenly spaced levels (n, d) times a scale for each row."""
    levels: Floats = unpack(_typed(codes, np.uint8), bits) - np.float32(middle(bits))
    return levels * _typed(scale, np.float32)


def _in_tiers(arrays: Mapping[str, Array], bits: int) -> Floats:
    """The rows of both tables in the order that `slots` says."""
    slots = _typed(arrays["slots"], np.int32)[:, 0]
    steps = np.diff(slots, prepend=np.int32(0))
    fine = steps == 1
    coarse = decoded(_typed(arrays["coarse.codes"], np.uint8), _typed(arrays["coarse.centroids"], np.float32))
    levels = _levels(arrays["fine.codes"], arrays["fine.scale"], bits)
    if (steps != fine).any() or len(levels) - 1 != fine.sum() or len(coarse) + len(levels) - 1 != len(slots):
        raise ValueError(f"{len(levels) - 1} fine and {len(coarse) - 1} coarse items in {len(slots) - 1} places")
    out = np.zeros((len(slots), levels.shape[1]), np.float32)
    out[fine] = levels[1:]
    out[1:][~fine[1:]] = coarse[1:]
    return out


def _typed(array: Array, kind: type) -> Array:
    if array.dtype != kind:
        raise ValueError(f"numbers of type {array.dtype}")
    return array
