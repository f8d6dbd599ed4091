"""`FusedIndex`: a search for what several models say together, where that is no inner product."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from millirec.data.tensors import Array
from millirec.index.base import Floats, Matches, Rows
from millirec.index.exact import ExactIndex, best
from millirec.models.fusion import FusionConfig, fused


class FusedIndex:
    """The members' item vectors side by side in `joined`, `widths` columns each; queries are laid out alike.

    Scores are those of `fused`, of the whole catalogue for each query: every member orders all items. A member whose
    part of a query is zero, or leads to no numbers, is left out. `joined` finds neighbours of items by inner products.
    """

    def __init__(self, joined: ExactIndex, widths: Sequence[int], fusion: FusionConfig) -> None:
        self.joined, self.fusion = joined, fusion
        edges = np.cumsum([0, *widths]).tolist()
        self._parts = [slice(start, end) for start, end in pairwise(edges)]
        self._fit = np.flatnonzero(np.isfinite(joined.table).all(axis=1))  # row 0 and damaged vectors are not

    @property
    def n_items(self) -> int:
        """Items of the catalogue."""
        return self.joined.n_items

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.joined.dim

    def search(self, vectors: Floats, k: int) -> Matches:
        """The k best items of each query (B, d)."""
        out = Matches.nothing(len(vectors), k)
        for at, vector in enumerate(vectors):
            best(self._catalogue_scores(vector)[None, :], k, Matches(out.rows[at : at + 1], out.scores[at : at + 1]))
        return out

    def scores(self, vectors: Floats, rows: Rows) -> Floats:
        """Scores (B, C) of each query with its own rows."""
        found = [self._catalogue_scores(vector)[own] for vector, own in zip(vectors, rows, strict=True)]
        return np.array(found, np.float32).reshape(rows.shape)

    def vectors(self, rows: Rows) -> Floats:
        """The joined vectors (n, d) of rows (n,)."""
        return self.joined.vectors(rows)

    def arrays(self) -> dict[str, Array]:
        """As `ExactIndex.arrays`."""
        return self.joined.arrays()

    def _catalogue_scores(self, vector: Floats) -> Floats:
        """Scores (n + 1,) of every row, -inf where there is none."""
        out = np.full(self.n_items + 1, -np.inf, np.float32)
        each = [self._member_scores(vector, part) for part in self._parts]
        if any(own is not None for own in each):
            out[self._fit] = fused(self.fusion, each)
        return out

    def _member_scores(self, vector: Floats, part: slice) -> Floats | None:
        own = vector[part]
        if not own.any() or not np.isfinite(own).all():
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            scores: Floats = (self.joined.table[:, part] @ own)[self._fit]
        return scores if np.isfinite(scores).all() else None
