"""Compressed search: 4-bit product quantisation scanned in registers, then re-ranked at 16 bits. Faiss.

Jegou et al., "Product Quantization for Nearest Neighbor Search", PAMI 2011; Andre et al., "Quicker ADC", PAMI
2019. With many items an inverted file first narrows the scan to the cells near the query.
"""

import math
from collections.abc import Mapping
from typing import Any

import faiss
import msgspec
import numpy as np

from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.tensors import Array
from millirec.index.base import Floats, Matches, Rows

_CENTROIDS = 16  # of 4-bit codes
_INVERTED_FILE_FROM = 200_000  # items; below, scanning all codes takes under 0.4 ms


class PQConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="pq"):
    """`codes`: 4-bit codes an item, None = one for each dimension. `lists`: cells of the inverted file, 0 = scan
    everything, None = by the size of the catalogue; `probes` of them are scanned for each query. `refine`: at
    least so many candidates are re-ranked at 16 bits, and at least four times k.
    """

    codes: int | None = None
    lists: int | None = None
    probes: int = 16
    refine: int = 256

    def __post_init__(self) -> None:
        for name in ("codes", "probes", "refine"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"$.index.{name} = {value}", "choose at least 1")
        if self.lists is not None and self.lists < 0:
            raise ConfigError(f"$.index.lists = {self.lists}", "choose 0 (scan everything) or more")


class PQIndex:
    """A Faiss index over the items that have a finite vector; `_rows` maps its positions to item rows."""

    def __init__(self, index: Any, rows: Rows, n_items: int, config: PQConfig) -> None:
        # One query is far too short to share among threads; the caller's threads do the sharing.
        faiss.omp_set_num_threads(1)
        self._index, self._rows, self._n_items, self._config = index, rows, n_items, config
        self._exact = faiss.downcast_index(index.refine_index)
        self._positions = np.full(n_items + 1, -1, np.int64)
        self._positions[rows] = np.arange(len(rows))

    @classmethod
    def build(cls, vectors: Floats, config: PQConfig) -> "PQIndex":
        """Train and fill from `vectors` (n_items + 1, d). Raises ConfigError for fewer than 16 finite items."""
        rows = np.flatnonzero(np.isfinite(vectors).all(axis=1)).astype(np.int32)
        rows = rows[rows > 0]
        if len(rows) < _CENTROIDS:
            raise ConfigError(
                f'$.index.kind = "pq" over {len(rows)} items needs at least {_CENTROIDS}', 'choose "exact"'
            )
        faiss.omp_set_num_threads(1)  # the same vectors give the same bytes
        index = faiss.index_factory(
            vectors.shape[1], _recipe(config, len(rows), vectors.shape[1]), faiss.METRIC_INNER_PRODUCT
        )
        _quieten(index)
        known = np.ascontiguousarray(vectors[rows], np.float32)
        index.train(known)
        index.add(known)
        inverted = faiss.try_extract_index_ivf(index)
        if inverted is not None:
            inverted.nprobe = config.probes
        return cls(index, rows, len(vectors) - 1, config)

    @property
    def n_items(self) -> int:
        """Items of the catalogue."""
        return self._n_items

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self._index.d)

    def search(self, vectors: Floats, k: int) -> Matches:
        """The k best items of each query (B, d), as far as the codes lead to them."""
        out = Matches.nothing(len(vectors), k)
        known = len(self._rows)
        wanted = min(k, known)
        sane = np.asarray(np.isfinite(vectors).all(axis=1))
        queries = np.where(sane[:, None], vectors, np.float32(0)).astype(np.float32)
        if not len(queries) or not wanted:
            return out
        factor = min(max(self._config.refine, 4 * wanted), known) / wanted
        settings = faiss.IndexRefineSearchParameters()
        settings.k_factor = factor
        scores, positions = self._index.search(queries, wanted, params=settings)
        found = (positions >= 0) & sane[:, None]
        out.rows[:, :wanted] = np.where(found, self._rows[positions], 0)
        out.scores[:, :wanted] = np.where(found, scores, -np.inf)
        return out

    def scores(self, vectors: Floats, rows: Rows) -> Floats:
        """Inner products (B, C) of each query with its own rows, at 16 bits."""
        items = self.vectors(rows.ravel()).reshape(*rows.shape, self.dim)
        with np.errstate(over="ignore", invalid="ignore"):
            out: Floats = np.matmul(items, vectors[:, :, None])[:, :, 0]
        np.copyto(out, -np.inf, where=~(out < np.inf))
        return out

    def vectors(self, rows: Rows) -> Floats:
        """The vectors (n, d) of rows (n,), rounded to 16 bits."""
        positions = self._positions[rows]
        out = np.full((len(rows), self.dim), np.nan, np.float32)
        known = positions >= 0
        if known.any():
            out[known] = self._exact.reconstruct_batch(np.ascontiguousarray(positions[known]))
        return out

    def arrays(self) -> dict[str, Array]:
        """`faiss`: the index as bytes; `rows`: which rows it holds; `n_items`."""
        whole = faiss.serialize_index(self._index)
        return {"faiss": whole, "rows": self._rows, "n_items": np.array([self._n_items])}

    @classmethod
    def load(cls, arrays: Mapping[str, Array], config: PQConfig) -> "PQIndex":
        """The inverse of `arrays`. Raises ArtifactError when something is missing, damaged or does not fit."""
        try:
            whole = arrays["faiss"]
            if whole.dtype != np.uint8 or whole.ndim != 1:
                raise ValueError("not the bytes of an index")
            index = faiss.deserialize_index(np.ascontiguousarray(whole))
            rows, n_items = arrays["rows"].astype(np.int32), int(arrays["n_items"][0])
        except (KeyError, IndexError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[-1] if str(error) else type(error).__name__
            raise ArtifactError(f"the item index cannot be read ({reason})", "pack again") from error
        fits = isinstance(index, faiss.IndexRefine) and index.ntotal == len(rows)
        if not fits or (len(rows) and not 0 < rows.min() <= rows.max() <= n_items):
            raise ArtifactError(f"not an index of {n_items} items", "pack again")
        return cls(index, rows, n_items, config)


def _recipe(config: PQConfig, n: int, dim: int) -> str:
    codes = dim if config.codes is None else config.codes
    if dim % codes:
        raise ConfigError(f"$.index.codes = {codes} does not divide the width {dim}", "choose a divisor")
    lists = config.lists
    if lists is None:
        lists = round(math.sqrt(n)) if n >= _INVERTED_FILE_FROM else 0
    if lists > n:
        raise ConfigError(f"$.index.lists = {lists} with {n} items", "choose fewer lists than items")
    return f"{f'IVF{lists},' if lists else ''}PQ{codes}x4fs,Refine(SQfp16)"


def _quieten(index: Any) -> None:
    """Faiss warns on stderr about small training sets; the recall is measured, so nobody needs to be warned."""
    base: Any = faiss.downcast_index(index.base_index)
    base.pq.cp.min_points_per_centroid = 1
    if isinstance(base, faiss.IndexIVF):
        base.cp.min_points_per_centroid = 1
