"""A few codes for each item, and the sub-vectors that they stand for, which all items share."""

from typing import Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.data.codes import pack
from millirec.data.errors import ConfigError
from millirec.models.layers.table.base import check_packing, held_codes


class Product(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="product"):
    """`codes` sub-vectors an item, each chosen among 2 ** `bits` that all items share.

    Petrov and Macdonald, "RecJPQ: Training Large-Catalogue Sequential Recommenders", WSDM 2024: the codes rest, the
    sub-vectors are trained. Scores of cosines stay inner products here: item vectors are not brought to length 1, so
    that a score is the sum of `codes` table look-ups.
    """

    codes: int = 16
    bits: Literal[4, 8] = 4

    def __post_init__(self) -> None:
        if self.codes < 1:
            raise ConfigError(f"$.model.table.codes = {self.codes}", "choose at least 1")
        if self.bits not in (4, 8):
            raise ConfigError(f"$.model.table.bits = {self.bits}", "choose 4 or 8")


class ProductTable(nn.Module):
    """Codes of 4 or 8 bits and the sub-vectors that they stand for, `centroids` (M, 2 ** bits, d / M)."""

    unit = False
    codes: Tensor
    held: Tensor
    starts: Tensor

    def __init__(self, n_items: int, width: int, config: Product) -> None:
        super().__init__()
        if width % config.codes:
            raise ConfigError(
                f"$.model.table.codes = {config.codes} does not divide $.model.embedding_dim = {width}",
                "choose a divisor",
            )
        check_packing(config.codes, config.bits, "$.model.table.codes")
        self.embedding_dim, self.bits, levels = width, config.bits, 2**config.bits
        self.register_buffer("codes", torch.zeros(n_items + 1, config.codes * config.bits // 8, dtype=torch.uint8))
        self.register_buffer("held", held_codes(config.bits), persistent=False)
        self.register_buffer("starts", torch.arange(config.codes) * levels, persistent=False)
        self.centroids = nn.Parameter(torch.empty(config.codes, levels, width // config.codes))
        nn.init.normal_(self.centroids, std=width**-0.5)

    def forward(self, rows: Tensor) -> Tensor:
        """(..., d) of int rows (...)."""
        return self._decoded(F.embedding(rows, self.codes))

    def vectors(self) -> Tensor:
        """(n + 1, d)."""
        return self._decoded(self.codes)

    @torch.no_grad()
    def assign(self, numbers: NDArray[np.uint8]) -> None:
        """Let the codes of rows 0..n be `numbers` below 2 ** bits, (n + 1, M)."""
        self.codes.copy_(torch.from_numpy(pack(numbers, self.bits)))

    @torch.no_grad()
    def coded(self, vectors: Tensor) -> Tensor:
        """The codes (n, M * bits / 8) of the sub-vectors that are nearest to the parts of `vectors` (n, d)."""
        parts = vectors.reshape(len(vectors), len(self.centroids), self.centroids.shape[2]).movedim(1, 0)
        numbers = [torch.cdist(some, self.centroids).argmin(2).T for some in torch.split(parts, 1 << 14, dim=1)]
        return torch.from_numpy(pack(torch.cat(numbers).to(torch.uint8).cpu().numpy(), self.bits))

    def _decoded(self, codes: Tensor) -> Tensor:
        which = F.embedding(codes.int(), self.held).flatten(-2) + self.starts
        # Its gradient is five times as fast as that of an embedding whose few rows are looked up by all items.
        parts = self.centroids.flatten(0, 1).index_select(0, which.flatten())
        return parts.view(*codes.shape[:-1], self.embedding_dim)
