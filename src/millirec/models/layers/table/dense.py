"""A vector of floats for each item."""

import msgspec
from torch import Tensor, nn


class Dense(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="dense"):
    """A vector of floats for each item."""


class DenseTable(nn.Embedding):
    """Floats."""

    unit = True

    def __init__(self, n_items: int, width: int) -> None:
        super().__init__(n_items + 1, width, padding_idx=0)

    def vectors(self) -> Tensor:
        """(n + 1, d)."""
        return self.weight
