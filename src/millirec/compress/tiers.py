"""Item vectors in two tiers: fine where the events are, coarse for the many items that hardly anybody took."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from millirec.compress.embedding import NewTable, dense_vectors, item_weights
from millirec.compress.product import cluster
from millirec.compress.recovery import recovered
from millirec.compress.rounding import MOST_STEP, RoundedRows, exact, row_codes
from millirec.compress.workshop import Workshop
from millirec.data.codes import pack
from millirec.data.errors import ConfigError
from millirec.models.checkpoint import Checkpoint
from millirec.models.layers.table import DenseTable, Tiered, TieredTable
from millirec.train.config import TrainConfig


class Tier(NewTable, frozen=True, kw_only=True, tag_field="kind", tag="tiered"):
    """The `share` of the items with most training events gets `bits` bits a number, and a scale for each row.

    `step_scale` is as in `quantize`. With `train` the fine rows learn on, rounded as they will be, and so do the
    sub-vectors of the coarse items; who is fine, and the codes of the coarse ones, stay as they are.

    With `fine_codes` above 0 they get so many codes of `bits` bits instead, as all others get theirs; an index then
    scans both tiers without decoding them.

    All others get `codes` codes of `code_bits` bits, found by k-means among the parts of their own vectors; where
    scores are cosines, of their directions, scaled to their mean length.
    """

    share: float = 0.25
    bits: Literal[2, 4, 8] = 4
    fine_codes: int = 0
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
        return Tiered(
            share=self.share, bits=self.bits, fine_codes=self.fine_codes, codes=self.codes, code_bits=self.code_bits
        )

    def fit(self, table: TieredTable, checkpoint: Checkpoint, workshop: Workshop) -> None:
        """Rows by events, levels as in a quantised table, codes and sub-vectors by k-means among the coarse items."""
        fine = most_taken(checkpoint.popularity, table.n_fine)
        coarse = np.setdiff1d(np.arange(1, table.n_items + 1), fine)
        table.divide(fine)
        weights, seed = item_weights(checkpoint, self.power), workshop.machine.seed
        if not self.fine_codes:
            table.fine.codes[1:], table.fine.scale[1:] = self._coded(dense_vectors(checkpoint, table.fine, fine))
            if len(coarse):
                cluster(table.coarse, dense_vectors(checkpoint, table.coarse, coarse), weights[coarse], seed)
            return
        vectors = dense_vectors(checkpoint, table)  # of one length in both tiers, where scores are cosines
        for part, rows in ((table.fine, fine), (table.coarse, coarse)):
            if len(rows):
                cluster(part, vectors[rows], weights[rows], seed)

    def learned(
        self, made: Checkpoint, before: Checkpoint, train: TrainConfig, workshop: Workshop, folder: Path | None
    ) -> Checkpoint:
        """`made` after training on, its fine rows from those of `before`."""
        if self.fine_codes:
            return super().learned(made, before, train, workshop, folder)
        rows = most_taken(before.popularity, Tiered(share=self.share).fine(len(before.catalog)))
        free = partial(self._free, vectors=before.parameters["item.weight"][rows])
        after = recovered(made, train, workshop, folder, free)
        parameters = exact(after.parameters)
        codes, scale = self._coded(parameters.pop("item.fine.weight"))
        return replace(after, parameters=parameters | {"item.fine.codes": codes, "item.fine.scale": scale})

    def _free(self, network: nn.Module, vectors: Tensor) -> None:
        """Let the fine rows be floats, which the network reads rounded."""
        table: Any = network.item
        fine = DenseTable(len(vectors), table.embedding_dim).to(table.slots.device)
        with torch.no_grad():
            fine.weight[1:] = vectors
        parametrize.register_parametrization(fine, "weight", RoundedRows(self.bits, self.step_scale))
        table.fine = fine

    def _coded(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        numbers, scale = row_codes(vectors, self.bits, self.step_scale)
        return torch.from_numpy(pack(numbers.numpy(), self.bits)), scale


def most_taken(popularity: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """The n rows with most training events, rising; of equals those with lower numbers."""
    rows: NDArray[np.int64] = np.sort(np.argsort(-popularity[1:], kind="stable")[:n]) + 1
    return rows
