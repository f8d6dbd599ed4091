"""A fine vector for the items with most events, and a coarse one for the many that have few."""

from typing import Any, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.data.errors import ConfigError
from millirec.models.layers.table.base import check_packing
from millirec.models.layers.table.product import Product, ProductTable
from millirec.models.layers.table.quantized import Quantized, QuantizedTable


class Tiered(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="tiered"):
    """A `share` of the items has rows of a quantised table of `bits` bits, the others have rows of a product table.

    Bytes go where the events are: Joglekar et al., "Neural Input Search for Large Scale Recommendation Models", KDD
    2020, give frequent items more numbers; here they get more bits. `codes` and `code_bits` are those of the product
    table. With `fine_codes` above 0 the fine items too have rows of a product table, of so many codes of `bits` bits,
    and an index scans both tables without decoding them.
    """

    share: float = 0.25
    bits: Literal[2, 4, 8] = 4
    fine_codes: int = 0
    codes: int = 8
    code_bits: Literal[4, 8] = 8

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"$.model.table.share = {self.share}", "choose a share of the items, from 0 to 1")
        if self.bits not in (2, 4, 8):
            raise ConfigError(f"$.model.table.bits = {self.bits}", "choose 2, 4 or 8")
        if self.fine_codes < 0:
            raise ConfigError(f"$.model.table.fine_codes = {self.fine_codes}", "choose 0 (levels, not codes) or more")
        if self.fine_codes and not 0 < self.share < 1:
            raise ConfigError(
                f"$.model.table.share = {self.share} leaves one of two tiers of codes empty", "use a product table"
            )
        if self.fine_codes and self.bits == 2:
            raise ConfigError("$.model.table.bits = 2: codes have 4 or 8 bits", "choose 4 or 8")
        if self.codes < 1:
            raise ConfigError(f"$.model.table.codes = {self.codes}", "choose at least 1")
        if self.code_bits not in (4, 8):
            raise ConfigError(f"$.model.table.code_bits = {self.code_bits}", "choose 4 or 8")

    def fine(self, n_items: int) -> int:
        """How many of the items are fine."""
        return round(self.share * n_items)


class TieredTable(nn.Module):
    """Two tables, `fine` and `coarse`, and `slots` (n + 1, 1): how many of the rows 1..r are fine.

    Row r is fine where that number rises; it is row `slots[r]` of the fine table then, and row r - `slots[r]` of the
    coarse one otherwise. Row 0 of both is padding.
    """

    slots: Tensor

    def __init__(self, n_items: int, width: int, config: Tiered) -> None:
        super().__init__()
        for name, codes, bits in (
            ("codes", config.codes, config.code_bits),
            ("fine_codes", config.fine_codes, config.bits),
        ):
            if codes and width % codes:
                raise ConfigError(
                    f"$.model.table.{name} = {codes} does not divide $.model.embedding_dim = {width}",
                    "choose a divisor",
                )
            check_packing(codes, bits, f"$.model.table.{name}")
        self.embedding_dim, self.n_items, self.n_fine = width, n_items, config.fine(n_items)
        self.unit = not config.fine_codes  # scores of product codes stay sums of look-ups
        self.fine: Any = (
            ProductTable(self.n_fine, width, Product(codes=config.fine_codes, bits=config.bits))  # type: ignore[arg-type]
            if config.fine_codes
            else QuantizedTable(self.n_fine, width, Quantized(bits=config.bits))
        )
        self.coarse = ProductTable(n_items - self.n_fine, width, Product(codes=config.codes, bits=config.code_bits))
        self.register_buffer("slots", torch.arange(n_items + 1, dtype=torch.int32).clamp_max(self.n_fine)[:, None])

    def forward(self, rows: Tensor) -> Tensor:
        """(..., d) of int rows (...)."""
        slots = self._slots(rows)
        fine = (slots > self._slots((rows - 1).clamp_min(0))) | (rows == 0)
        return torch.where(fine[..., None], self.fine(slots), self.coarse(rows - slots))

    def vectors(self) -> Tensor:
        """(n + 1, d)."""
        out: Tensor = self(torch.arange(self.n_items + 1, dtype=torch.int32, device=self.slots.device))
        return out

    @torch.no_grad()
    def divide(self, rows: NDArray[np.int64]) -> None:
        """Let `rows`, as many as the config says, be the fine ones."""
        fine = torch.zeros(self.n_items + 1, dtype=torch.int32)
        fine[torch.from_numpy(rows)] = 1
        self.slots.copy_(fine.cumsum(0, dtype=torch.int32)[:, None])

    def _slots(self, rows: Tensor) -> Tensor:
        return F.embedding(rows, self.slots).squeeze(-1)
