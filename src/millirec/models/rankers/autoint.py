"""AutoInt: fields attend to fields. Song et al., CIKM 2019; with hidden layers beside it, its AutoInt+."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.data.errors import ConfigError
from millirec.data.features import Schema
from millirec.models.base import RankInputs
from millirec.models.rankers.base import RankerNetworkConfig
from millirec.models.rankers.fields import FieldVectors, Hidden, output


class AutoIntConfig(RankerNetworkConfig, frozen=True, kw_only=True, tag="autoint"):
    """`layers` of `heads` heads of `head_dim` numbers. `hidden`: widths of the deep part, () = none."""

    layers: int = 3
    heads: int = 2
    head_dim: int = 16
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "layers", "heads", "head_dim", "hidden")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"$.ranker.dropout = {self.dropout}", "choose 0 or more, below 1")


class AutoInt(nn.Module):
    """Layers of interaction, then one number of all fields."""

    def __init__(self, config: AutoIntConfig, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self.vectors = FieldVectors(schema, config.embedding_dim)
        width = config.heads * config.head_dim
        sizes = [config.embedding_dim, *[width] * config.layers]
        self.layers = nn.ModuleList(_Interaction(size, config.heads, config.head_dim) for size in sizes[:-1])
        self.output = output(self.vectors.fields * width)
        self.hidden: nn.Module | None = None
        if config.hidden:
            inputs = self.vectors.fields * config.embedding_dim
            self.hidden = nn.Sequential(Hidden(inputs, config.hidden, config.dropout), output(config.hidden[-1]))

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits (B,)."""
        first = self.vectors(inputs)
        x = first
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.output(x.flatten(1)).squeeze(1)
        return logits if self.hidden is None else logits + self.hidden(first.flatten(1)).squeeze(1)


class _Interaction(nn.Module):
    """Multi-head attention over the fields, and what they were before. The scores are not scaled, as in the paper."""

    def __init__(self, inputs: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self._shape = (heads, head_dim)
        self.queries, self.keys, self.values, self.before = (
            nn.Linear(inputs, heads * head_dim, bias=False) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (
            layer(x).unflatten(2, self._shape).transpose(1, 2) for layer in (self.queries, self.keys, self.values)
        )
        attended = F.scaled_dot_product_attention(queries, keys, values, scale=1.0).transpose(1, 2).flatten(2)
        return torch.relu(attended + self.before(x))
