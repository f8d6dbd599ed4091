"""DeepFM: a factorisation machine and a deep network on the same vectors. Guo et al., IJCAI 2017."""

from torch import Tensor, nn

from millirec.data.features import Schema
from millirec.models.base import RankInputs
from millirec.models.rankers.base import DeepConfig
from millirec.models.rankers.fields import FieldVectors, Hidden, Linear, output
from millirec.models.rankers.fm import pairs


class DeepFMConfig(DeepConfig, frozen=True, kw_only=True, tag="deepfm"):
    """Hyper-parameters of DeepFM."""


class DeepFM(nn.Module):
    """First order, all pairs, and hidden layers."""

    def __init__(self, config: DeepFMConfig, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self.linear = Linear(schema)
        self.vectors = FieldVectors(schema, config.embedding_dim)
        self.hidden = Hidden(self.vectors.fields * config.embedding_dim, config.hidden, config.dropout)
        self.output = output(config.hidden[-1])

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits (B,)."""
        deep = self.output(self.hidden(self.vectors(inputs).flatten(1))).squeeze(1)
        logits: Tensor = self.linear(inputs) + pairs(self.vectors.singly(inputs)) + deep
        return logits
