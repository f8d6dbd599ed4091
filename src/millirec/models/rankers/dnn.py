"""A plain deep network over the vectors of all fields. Covington et al., RecSys 2016."""

from torch import Tensor, nn

from millirec.data.features import Schema
from millirec.models.base import RankInputs
from millirec.models.rankers.base import DeepConfig
from millirec.models.rankers.fields import FieldVectors, Hidden, output


class DNNConfig(DeepConfig, frozen=True, kw_only=True, tag="dnn"):
    """Hyper-parameters of a plain deep network."""


class DNN(nn.Module):
    """Fields side by side through hidden layers."""

    def __init__(self, config: DNNConfig, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self.vectors = FieldVectors(schema, config.embedding_dim)
        self.hidden = Hidden(self.vectors.fields * config.embedding_dim, config.hidden, config.dropout)
        self.output = output(config.hidden[-1])

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits (B,)."""
        logits: Tensor = self.output(self.hidden(self.vectors(inputs).flatten(1))).squeeze(1)
        return logits
