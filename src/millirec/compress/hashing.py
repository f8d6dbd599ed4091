"""Item vectors made of rows of small tables that items share: for catalogues too large, or too open, for a row each."""

from typing import Literal

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from millirec.compress.embedding import NewTable, dense_vectors, item_weights
from millirec.compress.workshop import Workshop
from millirec.data.errors import ConfigError
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig
from millirec.models.layers.table import Hashed, HashedTable

_ROUNDS = 20
_DAMPING = 1e-3  # keeps the rows that hardly any item uses from growing
_SMALL = 1e-7  # of what is left, at which a fit is done

Numbers = NDArray[np.float64]


class Hash(NewTable, frozen=True, kw_only=True, tag_field="kind", tag="hash"):
    """Tables of `buckets` rows, fitted to the trained vectors by least squares; see `models.layers.table.Hashed`.

    Items that share rows stay alike until the network learns on, so a `train` is nearly always wanted.
    """

    buckets: int = 4096
    way: Literal["quotient-remainder", "multi"] = "quotient-remainder"
    hashes: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.table()  # refuses by name

    def table(self) -> Hashed:
        """The config of the new table."""
        return Hashed(buckets=self.buckets, way=self.way, hashes=self.hashes)

    def rewritten(self, config: ModelConfig, n_items: int) -> ModelConfig:
        """As `NewTable.rewritten`; refuses tables that are no smaller than the one that they replace."""
        rows = self.buckets if self.way == "multi" else self.buckets + n_items // self.buckets + 1
        if rows > n_items:
            raise ConfigError(f"buckets = {self.buckets} saves nothing with {n_items:,} items", "choose fewer buckets")
        return super().rewritten(config, n_items)

    def fit(self, table: HashedTable, checkpoint: Checkpoint, workshop: Workshop) -> None:
        """The rows that lose least."""
        del workshop
        vectors = dense_vectors(checkpoint, table).numpy().astype(np.float64)
        weights = item_weights(checkpoint, self.power).astype(np.float64)
        if self.way == "multi":
            places = [place.numpy() for place in table.places(torch.arange(len(vectors)))]
            table.first.copy_(torch.from_numpy(_summed_rows(vectors, weights, places, self.buckets)))
            return
        first, second = _multiplied_rows(vectors, weights, self.buckets)
        table.first.copy_(torch.from_numpy(first))
        table.second.copy_(torch.from_numpy(second))


def _multiplied_rows(vectors: Numbers, weights: Numbers, buckets: int) -> tuple[Numbers, Numbers]:
    """Rows (buckets, d) and (quotients, d) whose products come nearest: each in turn, the other held.

    `second` has a mean square of 1 in each dimension; a dimension of its grid of items is a matrix of rank 1.
    """
    quotients = -(-len(vectors) // buckets)
    missing = quotients * buckets - len(vectors)
    grid = np.pad(vectors, ((0, missing), (0, 0))).reshape(quotients, buckets, -1)
    heavy = np.pad(weights, (0, missing)).reshape(quotients, buckets, 1)
    second = np.ones((quotients, vectors.shape[1]))
    for _ in range(_ROUNDS):
        first = _held(grid * heavy, heavy, second[:, None], axis=0)
        second = _held(grid * heavy, heavy, first[None], axis=1)
        size = np.sqrt(np.square(second).mean(axis=0))
        second /= np.where(size > 0, size, 1)
    return _held(grid * heavy, heavy, second[:, None], axis=0), second


def _held(weighted: Numbers, weights: Numbers, other: Numbers, axis: int) -> Numbers:
    """The factor along the axis that is kept, by least squares, when the other one is known."""
    found: Numbers = (weighted * other).sum(axis=axis) / ((weights * other**2).sum(axis=axis) + _DAMPING)
    return found


def _summed_rows(vectors: Numbers, weights: Numbers, places: list[NDArray[np.int64]], buckets: int) -> Numbers:
    """Rows (buckets, d) whose sums come nearest, by conjugate gradients on the normal equations."""
    columns = np.concatenate(places)
    rows = np.tile(np.arange(len(vectors)), len(places))
    which = sp.csr_matrix((np.ones(len(rows)), (rows, columns)), (len(vectors), buckets))
    weighted = which.multiply(weights[:, None]).tocsr()
    found = np.zeros((buckets, vectors.shape[1]))
    left = np.asarray(weighted.T @ vectors)
    step, size = left.copy(), np.square(left).sum(axis=0)
    enough = _SMALL**2 * size
    for _ in range(10 * _ROUNDS):
        ahead = weighted.T @ (which @ step) + _DAMPING * step
        share = size / np.maximum((step * ahead).sum(axis=0), 1e-300)
        found += share * step
        left -= share * ahead
        size, before = np.square(left).sum(axis=0), size
        if (size <= enough).all():
            break
        step = left + size / np.maximum(before, 1e-300) * step
    return found
