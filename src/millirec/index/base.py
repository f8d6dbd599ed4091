"""What every item index can do, and what it answers."""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from millirec.data.tensors import Array

Floats = NDArray[np.float32]
Rows = NDArray[np.int32]


class Matches(NamedTuple):
    """The best items of each query: `rows` int32 (B, k), best first, 0 where there are fewer than k; `scores`
    float32 (B, k), the inner products, -inf where there are fewer.
    """

    rows: Rows
    scores: Floats

    @classmethod
    def nothing(cls, queries: int, k: int) -> "Matches":
        """No match for any of so many queries."""
        return cls(np.zeros((queries, k), np.int32), np.full((queries, k), -np.inf, np.float32))


class Index(Protocol):
    """Item vectors, found by inner product.

    Row 0 is never returned, nor is an item whose vector holds NaN or infinity. A query that holds NaN or
    infinity matches nothing. Safe to search from several threads.
    """

    @property
    def n_items(self) -> int:
        """Items of the catalogue: rows are 1..n_items."""

    @property
    def dim(self) -> int:
        """Width of the vectors."""

    def search(self, vectors: Floats, k: int) -> Matches:
        """The k best items of each query (B, d). k may exceed the catalogue."""

    def scores(self, vectors: Floats, rows: Rows) -> Floats:
        """Inner products (B, C) of each query (B, d) with its own rows (B, C); -inf for row 0 and for NaN."""

    def vectors(self, rows: Rows) -> Floats:
        """The vectors (n, d) of rows (n,), as exactly as the index keeps them; NaN where an item has none."""

    def arrays(self) -> dict[str, Array]:
        """What `index.load` makes the index from again."""


def recall(index: Index, truth: Index, queries: Floats, k: int = 10) -> float:
    """Mean share of the true k best items that `index` finds among its own k best; `queries` (B, d)."""
    found, wanted = index.search(queries, k).rows, truth.search(queries, k).rows
    shares = [np.isin(w[w > 0], f).mean() for f, w in zip(found, wanted, strict=True) if (w > 0).any()]
    return float(np.mean(shares)) if shares else 1.0
