"""Item vectors in two tiers: fine where the events are, coarse for the many items that hardly anybody took."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from millirec.compress.embedding import NewTable, dense_vectors, item_weights
from millirec.compress.product import cluster
from millirec.compress.rounding import MOST_STEP, row_codes
from millirec.compress.workshop import Workshop
from millirec.data.codes import pack
from millirec.data.errors import ConfigError
from millirec.models.checkpoint import Checkpoint
from millirec.models.layers.table import Tiered, TieredTable


class Tier(NewTable, frozen=True, kw_only=True, tag_field="kind", tag="tiered"):
    """The `share` of the items with most training events gets `bits` bits a number, and a scale for each row.

    `step_scale` is as in `quantize`.

    All others get `codes` codes of `code_bits` bits, found by k-means among the parts of their own vectors; where
    scores are cosines, of their directions, scaled to their mean length.
    """

    share: float = 0.25
    bits: Literal[2, 4, 8] = 4
    codes: int = 8
    code_bits: Literal[4, 8] = 8
    step_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.step_scale <= MOST_STEP:
            raise ConfigError(f"step_scale = {self.step_scale}", f"choose a factor from 1 to {MOST_STEP}")
        self.table()  # refuses by name

    def table(self) -> Tiered:
        """The config of the new table."""
        return Tiered(share=self.share, bits=self.bits, codes=self.codes, code_bits=self.code_bits)

    def fit(self, table: TieredTable, checkpoint: Checkpoint, workshop: Workshop) -> None:
        """Rows by events, levels as in a quantised table, codes and sub-vectors by k-means among the coarse items."""
        fine = most_taken(checkpoint.popularity, table.n_fine)
        coarse = np.setdiff1d(np.arange(1, table.n_items + 1), fine)
        table.divide(fine)
        numbers, scale = row_codes(dense_vectors(checkpoint, table.fine, fine), self.bits, self.step_scale)
        table.fine.codes[1:], table.fine.scale[1:] = torch.from_numpy(pack(numbers.numpy(), self.bits)), scale
        if len(coarse):
            weights = item_weights(checkpoint, self.power)[coarse]
            vectors = dense_vectors(checkpoint, table.coarse, coarse)
            cluster(table.coarse, vectors, weights, workshop.machine.seed)


def most_taken(popularity: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """The n rows with most training events, rising; of equals those with lower numbers."""
    rows: NDArray[np.int64] = np.sort(np.argsort(-popularity[1:], kind="stable")[:n]) + 1
    return rows
