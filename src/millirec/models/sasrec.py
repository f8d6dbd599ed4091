"""SASRec: a causal Transformer over a user's items.

Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018; with the full or sampled softmax of
Klenitskiy and Vasilev, "Turning Dross Into Gold Loss", RecSys 2023. `gated`, `swiglu` and `temperature` make it
eSASRec: Tikhonovich et al., "eSASRec: Enhancing Transformer-based Recommendations in a Modular Fashion", RecSys 2025.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from millirec.models.base import Inputs, NetworkConfig
from millirec.models.layers import initial
from millirec.models.layers.attention import OUTPUTS, CausalBlock, Shape, block_parts
from millirec.models.layers.checks import check_sequence
from millirec.models.layers.dropout import Dropout
from millirec.models.layers.parts import Structure, columns, item_columns, outputs, with_width
from millirec.models.layers.scale import user_side
from millirec.models.layers.sizes import Sizes, head_size, hidden_size
from millirec.models.layers.table import item_table, output_vectors


class SASRecConfig(NetworkConfig, frozen=True, kw_only=True, tag_field="kind", tag="sasrec"):
    """Hyper-parameters of SASRec. `feed_forward` is a multiple of `embedding_dim`.

    `head_dim`: None = `embedding_dim` / `heads`. `gated`, `swiglu`: see `CausalBlock`. `temperature`: scores are
    cosines divided by it; None = inner products.
    """

    embedding_dim: int = 64
    blocks: int = 2
    heads: int = 2
    feed_forward: int | float = 4
    dropout: float = 0.2
    max_length: int = 200
    head_dim: int | None = None
    gated: bool = False
    swiglu: bool = False
    temperature: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sequence(self, "embedding_dim", "blocks", "heads")
        _ = self.shape  # refuses sizes that do not fit

    @property
    def shape(self) -> Shape:
        """Sizes of a block."""
        size = head_size(self.embedding_dim, self.heads, self.head_dim)
        neurons = hidden_size(self.embedding_dim, self.feed_forward)
        return Shape(self.embedding_dim, self.heads, size, neurons, self.gated, self.swiglu)

    def structure(self) -> Structure:
        """As `NetworkConfig.structure`: heads, feed_forward, width, blocks."""
        width = self.embedding_dim
        parts, within = block_parts(self.shape, self.blocks)
        others = (columns("position.weight", width, sends=True), *outputs("norm", width), *within)
        parts = with_width(parts, item_columns(self.table, width), others)
        return Structure(parts, self.blocks, OUTPUTS)

    def shrunk(self, counts: Mapping[str, int], blocks: Sequence[int]) -> "SASRecConfig":
        """As `NetworkConfig.shrunk`."""
        sizes = Sizes(*self.shape[:4]).shrunk(counts)
        return replace(self, blocks=len(blocks), **sizes)


class SASRec(nn.Module):
    """Items plus positions, counted back from the newest event, through causal blocks."""

    inputs: ClassVar[tuple[str, ...]] = ("items", "lengths")

    def __init__(self, config: SASRecConfig, n_items: int) -> None:
        super().__init__()
        width = config.embedding_dim
        self.max_length, self.temperature = config.max_length, config.temperature
        self.drop = Dropout(config.dropout)
        self.item = item_table(config.table, n_items, width)
        self.position = nn.Embedding(config.max_length, width)
        self.blocks = nn.ModuleList(CausalBlock(config.shape, config.dropout) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.apply(initial.small)

    def forward(self, inputs: Inputs) -> Tensor:
        """A vector after each event, (B, L, d)."""
        x = self._embed(inputs)
        for block in self.blocks:
            x = block(x)
        return user_side(self.norm(x), self.temperature)

    def user_vectors(self, inputs: Inputs) -> Tensor:
        """The vector after the last event, (B, d); the last block computes that one row."""
        x = self._embed(inputs)
        for block in self.blocks[:-1]:
            x = block(x)
        last: Tensor = self.norm(self.blocks[-1].last(x, inputs.lengths))  # type: ignore[operator]
        return user_side(last.squeeze(1), self.temperature)

    def item_vectors(self, rows: Tensor | None = None) -> Tensor:
        """(n_items + 1, d), or of `rows` (..., d): the input table serves as output table too."""
        return output_vectors(self.item, rows, self.temperature)

    def _embed(self, inputs: Inputs) -> Tensor:
        steps = torch.arange(inputs.items.shape[1], device=inputs.items.device)
        back = self.max_length - inputs.lengths.long()[:, None] + steps[None, :]
        x = self.item(inputs.items) + self.position(back.clamp(0, self.max_length - 1))
        dropped: Tensor = self.drop(x)
        return dropped
