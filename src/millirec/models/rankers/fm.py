"""Factorisation machine: what two features say together, by inner products. Rendle, ICDM 2010."""

from torch import Tensor, nn

from millirec.data.features import Schema
from millirec.models.base import RankInputs
from millirec.models.rankers.base import RankerNetworkConfig
from millirec.models.rankers.fields import FieldVectors, Linear


class FMConfig(RankerNetworkConfig, frozen=True, kw_only=True, tag="fm"):
    """Hyper-parameters of a factorisation machine."""


class FM(nn.Module):
    """First order and all pairs, those of two values of one multi-valued feature among them."""

    def __init__(self, config: FMConfig, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self.linear = Linear(schema)
        self.vectors = FieldVectors(schema, config.embedding_dim)

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits (B,)."""
        logits: Tensor = self.linear(inputs) + pairs(self.vectors.singly(inputs))
        return logits


def pairs(vectors: Tensor) -> Tensor:
    """The sum of the inner products of all pairs of vectors, (B, N, d) to (B,), in linear time."""
    return (vectors.sum(1).square() - vectors.square().sum(1)).sum(1) / 2
