"""SASRec: a causal Transformer over a user's items.

Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018; with the full or sampled softmax of
Klenitskiy and Vasilev, "Turning Dross Into Gold Loss", RecSys 2023. `gated`, `swiglu` and `temperature` make it
eSASRec: Tikhonovich et al., "eSASRec: Enhancing Transformer-based Recommendations in a Modular Fashion", RecSys 2025.
"""

from typing import ClassVar

import msgspec
import torch
from torch import Tensor, nn

from millirec.models.base import Inputs
from millirec.models.layers import initial
from millirec.models.layers.attention import CausalBlock
from millirec.models.layers.checks import check_heads, check_sequence
from millirec.models.layers.dropout import Dropout
from millirec.models.layers.scale import item_side, user_side


class SASRecConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="sasrec"
):
    """Hyper-parameters of SASRec. `feed_forward` is a multiple of `embedding_dim`.

    `gated`, `swiglu`: see `CausalBlock`. `temperature`: scores are cosines divided by it; None = inner products.
    """

    embedding_dim: int = 64
    blocks: int = 2
    heads: int = 2
    feed_forward: int = 4
    dropout: float = 0.2
    max_length: int = 200
    gated: bool = False
    swiglu: bool = False
    temperature: float | None = None

    def __post_init__(self) -> None:
        check_sequence(self, "embedding_dim", "blocks", "heads", "feed_forward")
        check_heads(self.heads, self.embedding_dim)


class SASRec(nn.Module):
    """Items plus positions, counted back from the newest event, through causal blocks."""

    inputs: ClassVar[tuple[str, ...]] = ("items", "lengths")

    def __init__(self, config: SASRecConfig, n_items: int) -> None:
        super().__init__()
        width = config.embedding_dim
        self.max_length, self.temperature = config.max_length, config.temperature
        self.drop = Dropout(config.dropout)
        self.item = nn.Embedding(n_items + 1, width, padding_idx=0)
        self.position = nn.Embedding(config.max_length, width)
        feed = config.feed_forward * width
        self.blocks = nn.ModuleList(
            CausalBlock(width, config.heads, feed, config.dropout, gated=config.gated, swiglu=config.swiglu)
            for _ in range(config.blocks)
        )
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
        """(n_items + 1, d), or of `rows` (..., d): the input embeddings serve as output embeddings too."""
        return item_side(self.item.weight if rows is None else self.item(rows), self.temperature)

    def _embed(self, inputs: Inputs) -> Tensor:
        steps = torch.arange(inputs.items.shape[1], device=inputs.items.device)
        back = self.max_length - inputs.lengths.long()[:, None] + steps[None, :]
        x = self.item(inputs.items) + self.position(back.clamp(0, self.max_length - 1))
        dropped: Tensor = self.drop(x)
        return dropped
