"""Wide & Deep: a linear model that remembers beside a deep one that generalises. Cheng et al., DLRS 2016."""

from torch import Tensor, nn

from millirec.data.features import Schema
from millirec.models.base import RankInputs
from millirec.models.rankers.base import DeepConfig
from millirec.models.rankers.fields import FieldVectors, Hidden, Linear, output


class WideDeepConfig(DeepConfig, frozen=True, kw_only=True, tag="wide-deep"):
    """Hyper-parameters of Wide & Deep. What the wide part is to remember of pairs: features of kind "cross"."""


class WideDeep(nn.Module):
    """The sum of both."""

    def __init__(self, config: WideDeepConfig, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self.wide = Linear(schema)
        self.vectors = FieldVectors(schema, config.embedding_dim)
        self.hidden = Hidden(self.vectors.fields * config.embedding_dim, config.hidden, config.dropout)
        self.output = output(config.hidden[-1])

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits (B,)."""
        deep = self.output(self.hidden(self.vectors(inputs).flatten(1))).squeeze(1)
        logits: Tensor = self.wide(inputs) + deep
        return logits
