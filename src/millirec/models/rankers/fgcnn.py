"""FGCNN: convolutions over neighbouring fields make further fields of them. Liu et al., WWW 2019."""

import torch
from torch import Tensor, nn

from millirec.data.features import Schema
from millirec.models.base import RankInputs
from millirec.models.rankers.base import DeepConfig
from millirec.models.rankers.fields import FieldVectors, Hidden, output


class FGCNNConfig(DeepConfig, frozen=True, kw_only=True, tag="fgcnn"):
    """`channels`: of each convolution. `span`: how many neighbouring fields it sees; half of them are left behind it.

    `made`: of each field that is left behind a convolution, how many new ones are made.
    """

    channels: tuple[int, ...] = (8, 8)
    span: int = 3
    made: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "channels", "span", "made")


class FGCNN(nn.Module):
    """Fields and those made of them, with the inner products of all pairs, through hidden layers.

    The order of the features in the config matters: a convolution sees neighbours.
    """

    def __init__(self, config: FGCNNConfig, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self.vectors = FieldVectors(schema, config.embedding_dim)
        fields, width, inputs = self.vectors.fields, config.embedding_dim, 1
        layers, made = [], 0
        for channels in config.channels:
            layers.append(_Layer(inputs, channels, fields, config))
            fields, inputs = -(-fields // 2), channels
            made += config.made * fields
        self.layers = nn.ModuleList(layers)
        n = self.vectors.fields + made
        self.register_buffer("pairs", torch.triu_indices(n, n, 1), persistent=False)
        self.hidden = Hidden(n * width + n * (n - 1) // 2, config.hidden, config.dropout)
        self.output = output(config.hidden[-1])

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits (B,)."""
        own = self.vectors(inputs)
        found, x = [own], own.unsqueeze(1)
        for layer in self.layers:
            x, made = layer(x)
            found.append(made)
        fields = torch.cat(found, dim=1)
        products = (fields @ fields.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]  # type: ignore[index]
        logits: Tensor = self.output(self.hidden(torch.cat([fields.flatten(1), products], dim=1))).squeeze(1)
        return logits


class _Layer(nn.Module):
    """(B, C, F, d) to what the next layer sees, (B, channels, F / 2, d), and the fields made of it, (B, N, d)."""

    def __init__(self, inputs: int, channels: int, fields: int, config: FGCNNConfig) -> None:
        super().__init__()
        self.width, left = config.embedding_dim, -(-fields // 2)
        self.convolution = nn.Conv2d(inputs, channels, (config.span, 1), padding="same")
        self.pool = nn.MaxPool2d((2, 1), ceil_mode=True)
        size = left * config.embedding_dim
        self.made = nn.Linear(channels * size, config.made * size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        left = self.pool(torch.tanh(self.convolution(x)))
        made: Tensor = torch.tanh(self.made(left.flatten(1)))
        return left, made.view(len(made), -1, self.width)
