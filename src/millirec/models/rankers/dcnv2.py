"""DCN V2: explicit crosses of features, layer by layer, beside a deep network. Wang et al., WWW 2021."""

import torch
from torch import Tensor, nn

from millirec.data.features import Schema
from millirec.models.base import RankInputs
from millirec.models.rankers.base import DeepConfig
from millirec.models.rankers.fields import FieldVectors, Hidden, output


class DCNv2Config(DeepConfig, frozen=True, kw_only=True, tag="dcnv2"):
    """`crosses`: layers of crosses; k of them make polynomials of degree k + 1. `rank`: of their matrices, 0 = full."""

    crosses: int = 2
    rank: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "crosses")
        self.at_least(0, "rank")


class DCNv2(nn.Module):
    """Crosses and hidden layers in parallel, joined by the output layer."""

    def __init__(self, config: DCNv2Config, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self.vectors = FieldVectors(schema, config.embedding_dim)
        width = self.vectors.fields * config.embedding_dim
        self.crosses = nn.ModuleList(_matrix(width, config.rank) for _ in range(config.crosses))
        self.hidden = Hidden(width, config.hidden, config.dropout)
        self.output = output(width + config.hidden[-1])

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits (B,)."""
        first = self.vectors(inputs).flatten(1)
        crossed = first
        for matrix in self.crosses:
            crossed = first * matrix(crossed) + crossed
        logits: Tensor = self.output(torch.cat([crossed, self.hidden(first)], dim=1)).squeeze(1)
        return logits


def _matrix(width: int, rank: int) -> nn.Module:
    if not rank:
        return nn.Linear(width, width)
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))
