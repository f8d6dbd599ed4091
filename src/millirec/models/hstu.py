"""HSTU: gated pointwise attention with biases for place and time, down to the time of the question.

Zhai et al., "Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
Recommendations", ICML 2024.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from millirec.models.base import Inputs, NetworkConfig
from millirec.models.layers import initial
from millirec.models.layers.checks import check_sequence
from millirec.models.layers.clock import BUCKETS, asked_at, buckets
from millirec.models.layers.dropout import Dropout
from millirec.models.layers.parts import Structure, columns, item_columns, outputs, with_width
from millirec.models.layers.pointwise import OUTPUTS, PointwiseBlock, Stripe, block_parts, stripes
from millirec.models.layers.scale import user_side
from millirec.models.layers.sizes import head_dim_of, head_size
from millirec.models.layers.table import item_table, output_vectors


class HSTUConfig(NetworkConfig, frozen=True, kw_only=True, tag_field="kind", tag="hstu"):
    """Hyper-parameters of HSTU. Width 50 with 8 blocks is what its authors call large on MovieLens.

    `time_bias` reads the times of the events and of the question; without it only places count. `head_dim`: None
    = `embedding_dim` / `heads`. `temperature`: scores are cosines divided by it; None = inner products.
    """

    embedding_dim: int = 64
    blocks: int = 2
    heads: int = 2
    dropout: float = 0.2
    max_length: int = 200
    head_dim: int | None = None
    time_bias: bool = True
    temperature: float | None = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sequence(self, "embedding_dim", "blocks", "heads")
        _ = self.head_size  # refuses sizes that do not fit

    @property
    def head_size(self) -> int:
        """Numbers in a head."""
        return head_size(self.embedding_dim, self.heads, self.head_dim)

    def structure(self) -> Structure:
        """As `NetworkConfig.structure`: heads, width, blocks."""
        width, items = self.embedding_dim, item_columns(self.table, self.embedding_dim)
        parts, within = block_parts(width, self.heads, self.head_size, self.blocks)
        others = (columns("position.weight", width, sends=True), *outputs("norm", width), *within)
        scaled = items[0].name if items else None
        return Structure(with_width(parts, items, others), self.blocks, OUTPUTS, scaled=scaled)

    def shrunk(self, counts: Mapping[str, int], blocks: Sequence[int]) -> "HSTUConfig":
        """As `NetworkConfig.shrunk`."""
        width, heads = counts.get("width", self.embedding_dim), counts.get("heads", self.heads)
        head_dim = head_dim_of(width, heads, self.head_size)
        return replace(self, embedding_dim=width, blocks=len(blocks), heads=heads, head_dim=head_dim)


class HSTU(nn.Module):
    """Items plus places, counted back from the newest event, through pointwise blocks."""

    inputs: ClassVar[tuple[str, ...]] = ("items", "lengths", "times", "now")

    def __init__(self, config: HSTUConfig, n_items: int) -> None:
        super().__init__()
        width = config.embedding_dim
        self.config = config
        self.drop = Dropout(config.dropout)
        self.item = item_table(config.table, n_items, width)
        self.position = nn.Embedding(config.max_length, width)
        self.blocks = nn.ModuleList(
            PointwiseBlock(width, config.heads, config.max_length, config.dropout, config.head_dim)
            for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.apply(initial.small)

    def forward(self, inputs: Inputs) -> Tensor:
        """A vector after each event, (B, L, d)."""
        bucket, distance = self._spans(inputs)
        x = self._embed(inputs)
        pairs = self._stripes(bucket, distance)
        for block in self.blocks:
            x = block(x, pairs)
        return user_side(self.norm(x), self.config.temperature)

    def user_vectors(self, inputs: Inputs) -> Tensor:
        """The vector after the last event, (B, d); the last block computes that one row."""
        bucket, distance = self._spans(inputs)
        x = self._embed(inputs)
        pairs = self._stripes(bucket, distance)
        for block in self.blocks[:-1]:
            x = block(x, pairs)
        at = (inputs.lengths.long() - 1).clamp(min=0)
        row = at[:, None, None].expand(-1, 1, x.shape[1])
        last = self.blocks[-1].last(x, bucket.gather(1, row), distance[at][:, None], at)  # type: ignore[operator]
        return user_side(self.norm(last.squeeze(1)), self.config.temperature)

    def item_vectors(self, rows: Tensor | None = None) -> Tensor:
        """(n_items + 1, d), or of `rows` (..., d): the input table serves as output table too."""
        return output_vectors(self.item, rows, self.config.temperature)

    def _embed(self, inputs: Inputs) -> Tensor:
        steps = torch.arange(inputs.items.shape[1], device=inputs.items.device)
        back = inputs.lengths.long()[:, None] - 1 - steps[None, :]
        last = self.config.max_length - 1
        x = self.item(inputs.items) * self.item.embedding_dim**0.5 + self.position(back.clamp(0, last))
        dropped: Tensor = self.drop(x)
        return dropped

    def _stripes(self, bucket: Tensor, distance: Tensor) -> list[Stripe]:
        """Stripes save work where the length is known; a graph must do for every length."""
        if self.training and bucket.shape[1] > 1:
            return stripes(bucket, distance)
        return [Stripe(slice(0, bucket.shape[1]), bucket, distance)]

    def _spans(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """For question i and event j: bucket of the time between, (B, L, L), and places between, (L, L)."""
        steps = torch.arange(inputs.items.shape[1], device=inputs.items.device)
        distance = steps[:, None] - steps[None, :]
        if self.config.time_bias:
            bucket = buckets(asked_at(inputs)[:, :, None] - inputs.times[:, None, :])
        else:
            bucket = torch.zeros_like(inputs.times[:, :, None] + inputs.times[:, None, :])
        bucket = torch.where(distance[None] < 0, BUCKETS, bucket)
        return bucket, distance.clamp(0, self.config.max_length - 1)
