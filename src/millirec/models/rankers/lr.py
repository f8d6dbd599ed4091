"""Logistic regression: a weight for each value of each feature. Richardson et al., "Predicting Clicks", WWW 2007."""

from torch import Tensor, nn

from millirec.data.features import Schema
from millirec.models.base import RankInputs
from millirec.models.rankers.base import RankerNetworkConfig
from millirec.models.rankers.fields import Linear


class LRConfig(RankerNetworkConfig, frozen=True, kw_only=True, tag="lr"):
    """Logistic regression has a number a value: its `embedding_dim` is 1 by nature."""

    embedding_dim: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding_dim != 1:
            raise self.refused("embedding_dim", "leave it out: a linear model has one weight a value")


class LR(nn.Module):
    """The sum of weights."""

    def __init__(self, config: LRConfig, schema: Schema) -> None:
        super().__init__()
        del config
        self.schema = schema
        self.linear = Linear(schema)

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits (B,)."""
        logits: Tensor = self.linear(inputs)
        return logits
