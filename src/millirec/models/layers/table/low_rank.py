"""A few numbers for each item, times one matrix that all share."""

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.data.errors import ConfigError


class LowRank(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="low-rank"):
    """A vector of `rank` numbers for each item, times one matrix (rank, d).

    Lan et al., "ALBERT", ICLR 2020.
    """

    rank: int = 16

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"$.model.table.rank = {self.rank}", "choose at least 1")


class LowRankTable(nn.Module):
    """`weight` (n + 1, r) times `basis` (r, d)."""

    unit = True

    def __init__(self, n_items: int, width: int, config: LowRank) -> None:
        super().__init__()
        if config.rank >= width:
            raise ConfigError(
                f"$.model.table.rank = {config.rank} saves nothing at $.model.embedding_dim = {width}",
                "choose a smaller rank",
            )
        self.embedding_dim = width
        self.weight = nn.Parameter(torch.empty(n_items + 1, config.rank))
        self.basis = nn.Parameter(torch.empty(config.rank, width))
        nn.init.normal_(self.weight, std=0.02)
        nn.init.orthogonal_(self.basis)
        with torch.no_grad():
            self.weight[0].zero_()

    def forward(self, rows: Tensor) -> Tensor:
        """(..., d) of int rows (...)."""
        return F.embedding(rows, self.weight, padding_idx=0) @ self.basis

    def vectors(self) -> Tensor:
        """(n + 1, d)."""
        return self.weight @ self.basis
