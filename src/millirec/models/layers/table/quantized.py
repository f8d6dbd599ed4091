"""Numbers of few bits for each item, and a scale for each row."""

from typing import Literal

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.data.codes import middle
from millirec.data.errors import ConfigError
from millirec.models.layers.table.base import check_packing, held_codes


class Quantized(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="quantized"
):
    """Evenly spaced levels, 2 ** `bits` of them, times a scale for each row."""

    bits: Literal[2, 4, 8] = 8

    def __post_init__(self) -> None:
        if self.bits not in (2, 4, 8):
            raise ConfigError(f"$.model.table.bits = {self.bits}", "choose 2, 4 or 8")


class QuantizedTable(nn.Module):
    """Codes of 2, 4 or 8 bits, packed into bytes along a row, and a scale for each row."""

    unit = True
    codes: Tensor
    scale: Tensor
    held: Tensor

    def __init__(self, n_items: int, width: int, config: Quantized) -> None:
        super().__init__()
        self.embedding_dim, self.bits = width, config.bits
        check_packing(width, config.bits, "$.model.embedding_dim")
        self.register_buffer("codes", torch.zeros(n_items + 1, width * config.bits // 8, dtype=torch.uint8))
        self.register_buffer("held", held_codes(config.bits) - middle(config.bits), persistent=False)
        self.register_buffer("scale", torch.zeros(n_items + 1, 1))

    def forward(self, rows: Tensor) -> Tensor:
        """(..., d) of int rows (...)."""
        return self._decoded(F.embedding(rows, self.codes), F.embedding(rows, self.scale))

    def vectors(self) -> Tensor:
        """(n + 1, d)."""
        return self._decoded(self.codes, self.scale)

    def _decoded(self, codes: Tensor, scale: Tensor) -> Tensor:
        return F.embedding(codes.int(), self.held).flatten(-2) * scale
