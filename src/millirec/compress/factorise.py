"""Item vectors as a few numbers each, times one matrix that all share: the best such pair, by SVD."""

import numpy as np
import torch

from millirec.compress.embedding import NewTable, dense_vectors, item_weights
from millirec.compress.workshop import Workshop
from millirec.models.checkpoint import Checkpoint
from millirec.models.layers.table import LowRank, LowRankTable


class Factorise(NewTable, frozen=True, kw_only=True, tag_field="kind", tag="factorise"):
    """`rank` numbers an item. Eckart and Young, Psychometrika 1936, for weighted rows."""

    rank: int = 16

    def table(self) -> LowRank:
        """The config of the new table."""
        return LowRank(rank=self.rank)

    def fit(self, table: LowRankTable, checkpoint: Checkpoint, workshop: Workshop) -> None:
        """The directions in which the weighted vectors are longest, and each vector's share of them."""
        del workshop
        vectors = dense_vectors(checkpoint, table).double()
        weights = torch.from_numpy(item_weights(checkpoint, self.power).astype(np.float64))
        _, directions = torch.linalg.eigh(vectors.T @ (vectors * weights[:, None]))  # by length, rising
        basis = directions[:, -self.rank :].flip(1).T
        table.basis.copy_(basis)
        table.weight.copy_(vectors @ basis.T)
