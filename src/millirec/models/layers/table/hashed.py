"""Rows of small tables, which items share by hashes of their rows."""

from typing import Literal

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.data.codes import PRIME, factors
from millirec.data.errors import ConfigError


class Hashed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="hashed"):
    """Vectors shared among items: each is made of several rows of small tables with `buckets` rows.

    "quotient-remainder": row // buckets and row % buckets, multiplied, so that no two items get the same pair (Shi et
    al., "Compositional Embeddings Using Complementary Partitions", KDD 2020). "multi": the sum of `hashes` rows of one
    table (Svenstrup et al., "Hash Embeddings", NeurIPS 2017, without their weights).
    """

    buckets: int = 4096
    way: Literal["quotient-remainder", "multi"] = "quotient-remainder"
    hashes: int = 2

    def __post_init__(self) -> None:
        if self.buckets < 2:
            raise ConfigError(f"$.model.table.buckets = {self.buckets}", "choose at least 2")
        if self.hashes < 1:
            raise ConfigError(f"$.model.table.hashes = {self.hashes}", "choose at least 1")
        if self.way not in ("quotient-remainder", "multi"):
            raise ConfigError(f"$.model.table.way = {self.way!r}", "use 'quotient-remainder' or 'multi'")


class HashedTable(nn.Module):
    """Rows of small tables, joined: `first` (buckets, d), and `second` (quotients, d) for quotient-remainder."""

    unit = True

    def __init__(self, n_items: int, width: int, config: Hashed) -> None:
        super().__init__()
        self.embedding_dim, self.config, self.n_items = width, config, n_items
        self.first = nn.Parameter(torch.empty(config.buckets, width))
        nn.init.normal_(self.first, std=0.02)
        if config.way == "quotient-remainder":
            self.second = nn.Parameter(torch.empty(n_items // config.buckets + 1, width))
            nn.init.normal_(self.second, mean=1.0, std=0.1)

    def forward(self, rows: Tensor) -> Tensor:
        """(..., d) of int rows (...)."""
        buckets, rows = self.config.buckets, rows.long()
        if self.config.way == "quotient-remainder":
            return F.embedding(rows % buckets, self.first) * F.embedding(rows // buckets, self.second)
        return torch.stack([F.embedding(place, self.first) for place in self.places(rows)]).sum(0)

    def places(self, rows: Tensor) -> list[Tensor]:
        """For each hash function the rows of `first` that `rows` (...) int64 share."""
        return [(rows * f + f // 3) % PRIME % self.config.buckets for f in factors(self.config.hashes)]

    def vectors(self) -> Tensor:
        """(n + 1, d)."""
        out: Tensor = self(torch.arange(self.n_items + 1, device=self.first.device))
        return out
