"""FinalMLP: two deep streams that each choose their features, joined bilinearly. Mao et al., AAAI 2023."""

import torch
from torch import Tensor, nn

from millirec.data.features import Schema
from millirec.models.base import RankInputs
from millirec.models.rankers.base import DeepConfig
from millirec.models.rankers.fields import FieldVectors, Hidden, output


class FinalMLPConfig(DeepConfig, frozen=True, kw_only=True, tag="finalmlp"):
    """`hidden` is the first stream, `second` the other one. `heads` divides the last width of both.

    `gate`: width of the layer that makes the gates of each stream out of a vector that it learns.
    """

    second: tuple[int, ...] = (128, 128)
    heads: int = 2
    gate: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "second", "heads", "gate")
        if not self.second:
            raise self.refused("second", "name the width of at least one layer")
        if self.hidden[-1] % self.heads or self.second[-1] % self.heads:
            raise self.refused("heads", "choose a divisor of the last widths of `hidden` and `second`")


class FinalMLP(nn.Module):
    """Gates, two streams, and a bilinear form of what they found, head by head."""

    def __init__(self, config: FinalMLPConfig, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self.vectors = FieldVectors(schema, config.embedding_dim)
        width, self._heads = self.vectors.fields * config.embedding_dim, config.heads
        self.gates = nn.ModuleList(_Gate(config.embedding_dim, config.gate, width) for _ in range(2))
        streams = (config.hidden, config.second)
        self.streams = nn.ModuleList(Hidden(width, widths, config.dropout) for widths in streams)
        one, other = (widths[-1] for widths in streams)
        self.outputs = nn.ModuleList([output(one), nn.Linear(other, 1, bias=False)])
        self.bilinear = nn.Parameter(torch.empty(config.heads, one // config.heads, other // config.heads))
        nn.init.xavier_normal_(self.bilinear)

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits (B,)."""
        x = self.vectors(inputs).flatten(1)
        one, other = (stream(gate(x)) for stream, gate in zip(self.streams, self.gates, strict=True))
        first = self.outputs[0](one).squeeze(1) + self.outputs[1](other).squeeze(1)
        heads = one.unflatten(1, (self._heads, -1)).transpose(0, 1) @ self.bilinear  # (H, B, q)
        joint = (heads * other.unflatten(1, (self._heads, -1)).transpose(0, 1)).sum((0, 2))
        logits: Tensor = first + joint
        return logits


class _Gate(nn.Module):
    """A factor from 0 to 2 for every input, 1 at the start."""

    def __init__(self, learned: int, hidden: int, width: int) -> None:
        super().__init__()
        self.context = nn.Parameter(torch.empty(learned))
        nn.init.normal_(self.context, std=1.0)
        self.layers = nn.Sequential(nn.Linear(learned, hidden), nn.ReLU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = x * 2 * torch.sigmoid(self.layers(self.context))
        return gated
