"""BERT4Rec: a bidirectional Transformer that learns to fill gaps in a user's items.

Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer",
CIKM 2019; with pre-normalised blocks. To predict, it fills a gap behind the newest event.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from msgspec.structs import replace
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.data.errors import ConfigError
from millirec.models.base import Inputs, NetworkConfig
from millirec.models.layers import initial
from millirec.models.layers.attention import OUTPUTS, Shape, block_parts
from millirec.models.layers.bidirectional import BidirectionalBlock
from millirec.models.layers.checks import check_sequence
from millirec.models.layers.dropout import Dropout
from millirec.models.layers.parts import Structure, columns, item_columns, outputs, rows, with_width
from millirec.models.layers.scale import user_side
from millirec.models.layers.sizes import Sizes, head_size, hidden_size
from millirec.models.layers.table import item_table, output_vectors


class BERT4RecConfig(NetworkConfig, frozen=True, kw_only=True, tag_field="kind", tag="bert4rec"):
    """Hyper-parameters of BERT4Rec. `feed_forward` is a multiple of `embedding_dim`. `head_dim`: None = `embedding_dim`
    / `heads`.

    In training each event is hidden with probability `mask_share`; of a share `last_share` of the histories the
    newest event alone is hidden, as it is in prediction. `temperature`: scores are cosines divided by it; None = inner
    products.
    """

    embedding_dim: int = 64
    blocks: int = 2
    heads: int = 2
    feed_forward: int | float = 4
    dropout: float = 0.2
    max_length: int = 200
    head_dim: int | None = None
    mask_share: float = 0.2
    last_share: float = 0.1
    temperature: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sequence(self, "embedding_dim", "blocks", "heads")
        _ = self.shape  # refuses sizes that do not fit
        if not 0 < self.mask_share < 1:
            raise ConfigError(f"$.model.mask_share = {self.mask_share}", "choose a share between 0 and 1")
        if not 0 <= self.last_share <= 1:
            raise ConfigError(f"$.model.last_share = {self.last_share}", "choose a share from 0 to 1")

    @property
    def shape(self) -> Shape:
        """Sizes of a block."""
        size = head_size(self.embedding_dim, self.heads, self.head_dim)
        return Shape(self.embedding_dim, self.heads, size, hidden_size(self.embedding_dim, self.feed_forward))

    def structure(self) -> Structure:
        """As `NetworkConfig.structure`: heads, feed_forward, width, blocks."""
        width = self.embedding_dim
        parts, within = block_parts(self.shape, self.blocks)
        others = (
            rows("gap", width, sends=True),
            columns("position.weight", width, sends=True),
            *outputs("norm", width),
            columns("project.weight", width),
            rows("project.weight", width),
            *within,
        )
        return Structure(with_width(parts, item_columns(self.table, width), others), self.blocks, OUTPUTS)

    def shrunk(self, counts: Mapping[str, int], blocks: Sequence[int]) -> "BERT4RecConfig":
        """As `NetworkConfig.shrunk`."""
        sizes = Sizes(*self.shape[:4]).shrunk(counts)
        return replace(self, blocks=len(blocks), **sizes)


class BERT4Rec(nn.Module):
    """Items, gaps and positions, counted back from the newest place, through bidirectional blocks. It is `Masked`.

    A gap is a vector of its own, so no item is spent on it. `max_length` events and one gap are read.
    """

    inputs: ClassVar[tuple[str, ...]] = ("items", "lengths")

    def __init__(self, config: BERT4RecConfig, n_items: int) -> None:
        super().__init__()
        width = config.embedding_dim
        self.config = config
        self.drop = Dropout(config.dropout)
        self.item = item_table(config.table, n_items, width)
        self.gap = nn.Parameter(torch.empty(width))
        self.position = nn.Embedding(config.max_length + 1, width)
        self.blocks = nn.ModuleList(BidirectionalBlock(config.shape, config.dropout) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, width, bias=False)
        self.apply(initial.small)
        nn.init.trunc_normal_(self.gap, std=0.02, a=-0.04, b=0.04)

    def forward(self, inputs: Inputs) -> Tensor:
        """A vector at each event in sight of all others, (B, L, d): not for predicting what comes after it."""
        lengths = inputs.lengths.long()
        x = self._embed(inputs.items, torch.zeros_like(inputs.items, dtype=torch.bool), lengths)
        real = _places(x) < lengths.clamp(min=1)[:, None]
        for block in self.blocks:
            x = block(x, real)
        return self._out(x)

    def masked_pairs(self, inputs: Inputs, targets: Tensor) -> tuple[Tensor, Tensor]:
        """As `Masked.masked_pairs`; the newest target belongs to the sequence."""
        lengths = inputs.lengths.long()
        newest = targets.gather(1, (lengths - 1).clamp(min=0)[:, None])
        items = F.pad(inputs.items.long(), (0, 1)).scatter(1, lengths[:, None], newest)
        lengths = lengths + (newest[:, 0] > 0)
        hidden = self._hide(items, lengths)
        x = self._embed(items, hidden, lengths)
        real = _places(x) < lengths.clamp(min=1)[:, None]
        for block in self.blocks:
            x = block(x, real)
        return self._out(x[hidden]), items[hidden]

    def user_vectors(self, inputs: Inputs) -> Tensor:
        """The vector at a gap after the last event, (B, d); the last block computes that one row."""
        lengths = inputs.lengths.long() + 1
        items = F.pad(inputs.items, (0, 1))
        gap = torch.arange(items.shape[1], device=items.device)[None, :] == lengths[:, None] - 1
        x = self._embed(items, gap, lengths)
        real = _places(x) < lengths[:, None]
        for block in self.blocks[:-1]:
            x = block(x, real)
        return self._out(self.blocks[-1].last(x, lengths).squeeze(1))  # type: ignore[operator]

    def item_vectors(self, rows: Tensor | None = None) -> Tensor:
        """(n_items + 1, d), or of `rows` (..., d): the input table serves as output table too."""
        return output_vectors(self.item, rows, self.config.temperature)

    def _hide(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Which places to hide, bool like `items`: at least one in every row that holds an event."""
        places = torch.arange(items.shape[1], device=items.device)[None, :]
        newest = places == lengths[:, None] - 1
        hidden = torch.rand(items.shape, device=items.device) < self.config.mask_share
        hidden &= items > 0
        only_last = torch.rand(len(items), device=items.device) < self.config.last_share
        only_last |= ~hidden.any(1)
        return torch.where(only_last[:, None], newest, hidden)

    def _embed(self, items: Tensor, gaps: Tensor, lengths: Tensor) -> Tensor:
        back = lengths[:, None] - 1 - torch.arange(items.shape[1], device=items.device)[None, :]
        x = torch.where(gaps[:, :, None], self.gap, self.item(items))
        dropped: Tensor = self.drop(x + self.position(back.clamp(0, self.config.max_length)))
        return dropped

    def _out(self, x: Tensor) -> Tensor:
        return user_side(self.project(self.norm(x)), self.config.temperature)


def _places(x: Tensor) -> Tensor:
    return torch.arange(x.shape[1], device=x.device)[None, :]
