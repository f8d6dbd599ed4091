"""The index that is the embedding table itself: product codes scanned in registers, and an answer that is exact.

Petrov and Macdonald, "RecJPQ: Training Large-Catalogue Sequential Recommenders", WSDM 2024: a score is the sum of one
table look-up for each code. 4-bit codes are scanned with look-up tables of bytes (Andre et al., "Quicker ADC", PAMI
2019; Faiss), whose rounding has a bound: the scan proposes items, their true scores are summed, and as long as the
bound does not rule out that an item was missed, more are proposed.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import faiss
import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.codes import Bytes, pack, unpack
from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.tensors import Array
from millirec.index.base import Floats, Matches, Rows
from millirec.index.exact import ExactIndex

_SCAN_FROM = 8_192  # items; below, one matrix product over decoded vectors is as fast
_WIDEST = 256  # codes an item whose sums of bytes fit in 16 bits
_SLACK = 1e-5  # of the largest sum: what floats round away
_AMPLE, _MOST_AMPLE = 1.5, 16.0  # times as many items as wanted are proposed at first; more where they were too few
_CHUNK = 1 << 16  # rows whose codes are unpacked at once


class ProductIndexConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="product"
):
    """`codes` sub-vectors an item, each one of 2 ** `bits` that all items share: those of a product table."""

    codes: int = 16
    bits: Literal[4, 8] = 4

    def __post_init__(self) -> None:
        if self.codes < 1:
            raise ConfigError(f"$.index.codes = {self.codes}", "choose at least 1")
        if self.bits not in (4, 8):
            raise ConfigError(f"$.index.bits = {self.bits}", "choose 4 or 8")
        if self.codes * self.bits % 8:
            raise ConfigError(f"$.index.codes = {self.codes} of 4 bits fill no whole bytes", "choose an even number")


class _Asked(NamedTuple):
    """Queries (B, d); what each byte of codes adds to a score, (B, bytes, 256); how far a scan may err, (B,)."""

    queries: Floats
    tables: Floats
    slack: Floats

    def only(self, b: int) -> "_Asked":
        return _Asked(*(part[b : b + 1] for part in self))


class ProductIndex:
    """Codes and sub-vectors; equal scores are ordered by row, lower first.

    Scanning holds the codes a second time, in the order that registers want: `codes` * `bits` / 4 bytes an item
    in all.
    """

    def __init__(self, codes: Bytes, centroids: Floats, unfit: Rows | None = None) -> None:
        """`codes` uint8 (n_items + 1, M * bits / 8) as `data.codes.pack` packs them; `centroids` (M, 2 ** bits, d / M).

        Row 0 is padding; rows in `unfit` have no vector, nor have those with a sub-vector that is not finite.
        """
        self._codes, self._centroids = np.ascontiguousarray(codes), np.ascontiguousarray(centroids, np.float32)
        # Sub-vectors that are no numbers belong to rows that are never returned; sums must not meet them.
        sound = np.isfinite(self._centroids)
        self._sound = self._centroids if sound.all() else np.where(sound, self._centroids, np.float32(0))
        self._bits = 4 if centroids.shape[1] == 16 else 8
        self._starts = np.arange(codes.shape[1]) * 256
        self._fit = self._fitness(np.zeros(0, np.int32) if unfit is None else unfit)
        self._rows = np.flatnonzero(self._fit).astype(np.int32)
        self._whole: ExactIndex | None = None
        self._scan: Any = None
        self._ample = _AMPLE
        if len(self._rows) < _SCAN_FROM or len(centroids) > _WIDEST:
            self._whole = ExactIndex(self.vectors(np.arange(len(codes), dtype=np.int32)))
        else:
            self._scan = self._scanner()
        if len(self._rows) == self.n_items:
            self._rows = np.zeros(0, np.int32)  # position p is row p + 1

    @classmethod
    def build(cls, vectors: Floats, config: ProductIndexConfig) -> "ProductIndex":
        """The codes behind `vectors` (n_items + 1, d) of a product table, found again; nothing is rounded.

        Raises ConfigError when they are not such vectors.
        """
        width = vectors.shape[1]
        if width % config.codes:
            raise ConfigError(f"$.index.codes = {config.codes} does not divide the width {width}", "choose a divisor")
        fit = np.asarray(np.isfinite(vectors).all(axis=1))
        fit[0] = False
        parts = np.ascontiguousarray(vectors, np.float32).reshape(len(vectors), config.codes, -1)
        numbers = np.zeros((len(vectors), config.codes), np.uint8)
        centroids = np.zeros((config.codes, 2**config.bits, parts.shape[2]), np.float32)
        for part in range(config.codes):
            numbers[fit, part] = _told_apart(parts[fit, part], centroids[part], part)
        return cls(pack(numbers, config.bits), centroids, np.flatnonzero(~fit)[1:].astype(np.int32))

    @property
    def n_items(self) -> int:
        """Items of the catalogue."""
        return len(self._codes) - 1

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self._centroids.shape[0] * self._centroids.shape[2])

    def search(self, vectors: Floats, k: int) -> Matches:
        """The k best items of each query (B, d), exactly."""
        if self._whole is not None:
            return self._whole.search(vectors, k)
        out, known = Matches.nothing(len(vectors), k), int(self._scan.ntotal)
        wanted = min(k, known)
        if not len(vectors) or not wanted:
            return out
        sane = np.asarray(np.isfinite(vectors).all(axis=1))
        queries, exponents = _scaled(np.where(sane[:, None], vectors, np.float32(0)))
        asked = self._asked(queries)
        self._ample = max(0.99 * self._ample, _AMPLE)  # of two threads' writes either is as good
        rows, floors = self._proposed(asked, min(int(wanted * self._ample) + 32, known))
        for b in np.flatnonzero(sane).tolist():
            best, scores = self._proven(asked.only(b), rows[b], float(floors[b]), wanted)
            with np.errstate(over="ignore"):
                scores = np.ldexp(scores, exponents[b])
            finite = np.isfinite(scores)
            kept = np.count_nonzero(finite)
            out.rows[b, :kept], out.scores[b, :kept] = best[finite], scores[finite]
        return out

    def most(self, vectors: Floats) -> Floats:
        """What no item's score exceeds, (B,); NaN for queries that hold NaN or infinity."""
        with np.errstate(over="ignore", invalid="ignore"):
            products = self._products(vectors)
            highest, lowest = products.max(axis=2), products.min(axis=2)
            bound: Floats = highest.sum(axis=1) + _SLACK * np.maximum(highest, -lowest).sum(axis=1)
        return bound

    def scores(self, vectors: Floats, rows: Rows) -> Floats:
        """Inner products (B, C) of each query with its own rows."""
        with np.errstate(over="ignore", invalid="ignore"):
            tables = self._by_byte(self._products(vectors))
            out = np.stack([self._summed(*both) for both in zip(tables, rows, strict=True)]) if len(rows) else None
        if out is None:
            return np.zeros(rows.shape, np.float32)
        np.copyto(out, -np.inf, where=~((out < np.inf) & self._fit[rows]))
        return out

    def vectors(self, rows: Rows) -> Floats:
        """The vectors (n, d) of rows (n,)."""
        out = decoded(self._codes[rows], self._centroids)
        out[~self._fit[rows]] = np.nan
        return out

    def arrays(self) -> dict[str, Array]:
        """`codes` and `centroids` as they were given, and `unfit`: the rows without a vector, when there are some."""
        out: dict[str, Array] = {"codes": self._codes, "centroids": self._centroids}
        unfit = np.flatnonzero(~self._fit)[1:].astype(np.int32)
        return out | {"unfit": unfit} if len(unfit) else out

    @classmethod
    def load(cls, arrays: Mapping[str, Array], config: ProductIndexConfig) -> "ProductIndex":
        """The inverse of `arrays`. Raises ArtifactError when one is missing or they do not fit."""
        try:
            codes, centroids = (arrays[name] for name in ("codes", "centroids"))
        except KeyError as error:
            raise ArtifactError(f"the item index has no {error}", "pack again") from error
        wide, unfit = config.codes * config.bits // 8, arrays.get("unfit", np.zeros(0, np.int32))
        fits = codes.dtype == np.uint8 and codes.ndim == 2 and len(codes) > 1 and codes.shape[1] == wide
        fits = fits and centroids.dtype == np.float32 and centroids.ndim == 3 and centroids.shape[2] > 0
        fits = fits and centroids.shape[:2] == (config.codes, 2**config.bits)
        fits = fits and unfit.ndim == 1 and unfit.dtype == np.int32
        if not fits or (len(unfit) and not 0 < unfit.min() <= unfit.max() < len(codes)):
            raise ArtifactError(
                f"the item index holds codes {codes.shape} and sub-vectors {centroids.shape} that do not fit",
                "pack again",
            )
        return cls(codes, centroids, unfit)

    def _fitness(self, unfit: Rows) -> NDArray[np.bool_]:
        """Which rows can be recommended, (n_items + 1,)."""
        fit = np.ones(len(self._codes), np.bool_)
        fit[unfit], fit[0] = False, False
        sound = np.asarray(np.isfinite(self._centroids).all(axis=2))
        if not sound.all():
            for start in range(0, len(fit), _CHUNK):
                numbers = unpack(self._codes[start : start + _CHUNK], self._bits)
                fit[start : start + _CHUNK] &= sound[np.arange(len(sound)), numbers].all(axis=1)
        return fit

    def _scanner(self) -> Any:
        """A Faiss index over the rows that are fit, of the very same codes and sub-vectors."""
        faiss.omp_set_num_threads(1)  # one query is far too short to share among threads
        plain: Any = faiss.IndexPQ(self.dim, len(self._centroids), self._bits, faiss.METRIC_INNER_PRODUCT)
        faiss.copy_array_to_vector(self._sound.ravel(), plain.pq.centroids)
        codes = self._codes[1:] if len(self._rows) == self.n_items else self._codes[self._rows]
        faiss.copy_array_to_vector(codes.ravel(), plain.codes)
        plain.ntotal, plain.is_trained = len(codes), True
        return faiss.IndexPQFastScan(plain) if self._bits == 4 else plain

    def _asked(self, queries: Floats) -> _Asked:
        products = self._products(queries)
        highest, lowest = products.max(axis=2), products.min(axis=2)
        slack = _SLACK * np.maximum(highest, -lowest).sum(axis=1)
        if self._bits == 4:  # each look-up is rounded to 1/255 of the widest span
            slack += 0.501 / 255 * len(self._centroids) * (highest - lowest).max(axis=1)
        return _Asked(queries, self._by_byte(products), slack)

    def _proposed(self, asked: _Asked, count: int) -> tuple[Rows, Floats]:
        """Rows (B, count) that scan best, and for each query a bound on the scores of all others, (B,)."""
        rough, positions = self._scan.search(asked.queries, count)
        rows = self._rows[positions] if len(self._rows) else (positions + 1).astype(np.int32)
        # Where all bytes are extreme the scan may leave a place empty; then it has proven nothing.
        return rows, np.where(positions[:, -1] < 0, np.inf, rough[:, -1] + asked.slack)

    def _proven(self, asked: _Asked, rows: Rows, floor: float, k: int) -> tuple[Rows, Floats]:
        """The k best rows of one query and their scores; `rows` were proposed, others score `floor` at most."""
        known = int(self._scan.ntotal)
        while asked.slack[0] > 0 and len(rows) < known:  # no slack: all items score 0
            best, scores = self._best(asked, rows, k)
            if scores[-1] > floor:
                return best, scores
            self._ample = min(1.5 * self._ample, _MOST_AMPLE)
            more, floors = self._proposed(asked, min(4 * len(rows), known))
            rows, floor = more[0], float(floors[0])
        return self._best(asked, np.flatnonzero(self._fit).astype(np.int32), k)

    def _best(self, asked: _Asked, rows: Rows, k: int) -> tuple[Rows, Floats]:
        """The k best of these rows for one query, and their scores."""
        scores = self._summed(asked.tables[0], rows)
        best = np.lexsort((rows, -scores))[:k]
        return rows[best], scores[best]

    def _products(self, queries: Floats) -> Floats:
        """Inner products (B, M, 2 ** bits) of the parts of each query (B, d) with all sub-vectors."""
        parts = queries.reshape(len(queries), len(self._centroids), self._centroids.shape[2], 1)
        products: Floats = np.matmul(self._sound, parts)[..., 0]
        return products

    def _by_byte(self, products: Floats) -> Floats:
        """The same for whole bytes of codes, (B, bytes, 256): two codes of 4 bits at once, the first one lower."""
        if self._bits == 8:
            return products
        pairs = products[:, 1::2, :, None] + products[:, ::2, None, :]
        return pairs.reshape(len(products), -1, 256)

    def _summed(self, table: Floats, rows: Rows) -> Floats:
        """The scores (C,) of rows (C,): a look-up for each byte, summed."""
        flat, out = table.ravel(), np.empty(len(rows), np.float32)
        for start in range(0, len(rows), _CHUNK):
            places = self._codes[rows[start : start + _CHUNK]] + self._starts
            flat.take(places).sum(axis=1, out=out[start : start + _CHUNK])
        return out


def decoded(codes: Bytes, centroids: Floats) -> Floats:
    """The vectors (n, d) of packed codes (n, M * bits / 8): their sub-vectors (M, 2 ** bits, d / M) side by side."""
    numbers = unpack(codes, 4 if centroids.shape[1] == 16 else 8)
    parts: Floats = centroids[np.arange(len(centroids)), numbers]
    return parts.reshape(len(codes), centroids.shape[0] * centroids.shape[2])


def _scaled(queries: Floats) -> tuple[Floats, NDArray[np.int32]]:
    """Queries (B, d) below 1, so that no sum overflows, and the powers of 2 (B,) that were taken out of them."""
    _, exponents = np.frexp(np.abs(queries).max(axis=1))
    return np.ldexp(queries, -exponents[:, None]), exponents


def _told_apart(rows: Floats, distinct: Floats, part: int) -> Bytes:
    """The number (n,) of each row (n, w) among the distinct ones, which are written into `distinct` (L, w)."""
    numbers = np.zeros(len(rows), np.uint8)
    left = np.arange(len(rows))
    for level in range(len(distinct)):
        if not len(left):
            break
        distinct[level] = rows[left[0]]
        same = (rows[left] == distinct[level]).all(axis=1)
        numbers[left[same]] = level
        left = left[~same]
    if len(left):
        raise ConfigError(
            f'$.index.kind = "product": part {part} of the item vectors takes more than {len(distinct)} values',
            'compress with a "product-quantize" step first, or choose "pq" or "exact"',
        )
    return numbers
