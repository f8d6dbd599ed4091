"""NextItNet: dilated causal convolutions over a user's items.

Yuan et al., "A Simple Convolutional Generative Network for Next Item Recommendation", WSDM 2019; with the
normalisation before each convolution, and item embeddings that serve as output embeddings too.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import msgspec
import torch
from msgspec.structs import replace
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.data.errors import ConfigError
from millirec.models.base import Inputs, NetworkConfig
from millirec.models.layers import initial
from millirec.models.layers.checks import check_sequence
from millirec.models.layers.dropout import Dropout
from millirec.models.layers.parts import Slice, Structure, columns, item_columns, outputs, with_width
from millirec.models.layers.scale import user_side
from millirec.models.layers.table import item_table, output_vectors


class NextItNetConfig(NetworkConfig, frozen=True, kw_only=True, tag_field="kind", tag="nextitnet"):
    """Hyper-parameters of NextItNet. Each dilation makes a residual block of two convolutions, the second dilated
    twice as far. `kernel` is the number of places that a convolution sees. `temperature`: scores are cosines divided
    by it; None = inner products."""

    embedding_dim: int = 64
    dilations: list[int] = msgspec.field(default_factory=lambda: [1, 4, 1, 4])
    kernel: int = 3
    dropout: float = 0.2
    max_length: int = 200
    temperature: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sequence(self, "embedding_dim")
        if not self.dilations or min(self.dilations) < 1:
            raise ConfigError(f"$.model.dilations = {self.dilations}", "give one or more numbers of at least 1")
        if self.kernel < 2:
            raise ConfigError(f"$.model.kernel = {self.kernel}", "a convolution needs at least 2 places")

    @property
    def receptive_field(self) -> int:
        """How many of the newest events the vector after the last one depends on, at most `max_length`."""
        return min(self.max_length, 1 + 3 * (self.kernel - 1) * sum(self.dilations))

    def structure(self) -> Structure:
        """As `NetworkConfig.structure`: width, blocks. Within a block other channels may be kept than between them."""
        width, numbers = self.embedding_dim, range(len(self.dilations))
        between = (piece for i in numbers for piece in self._between(f"blocks.{i}."))
        within = (tuple(self._within(f"blocks.{i}.")) for i in numbers)
        parts = with_width({}, item_columns(self.table, width), (*outputs("norm", width), *between), *within)
        alike = len(set(self.dilations)) == 1
        return Structure(parts, len(self.dilations), ("far.mix.weight", "far.mix.bias"), alike=alike)

    def shrunk(self, counts: Mapping[str, int], blocks: Sequence[int]) -> "NextItNetConfig":
        """As `NetworkConfig.shrunk`."""
        dilations = [self.dilations[i] for i in blocks]
        return replace(self, embedding_dim=counts.get("width", self.embedding_dim), dilations=dilations)

    def _between(self, block: str) -> Iterable[Slice]:
        yield from outputs(f"{block}near_norm", self.embedding_dim)
        yield columns(f"{block}near.mix.weight", self.embedding_dim, repeats=self.kernel)
        yield from outputs(f"{block}far.mix", self.embedding_dim, sends=True)

    def _within(self, block: str) -> Iterable[Slice]:
        yield from outputs(f"{block}near.mix", self.embedding_dim)
        yield from outputs(f"{block}far_norm", self.embedding_dim)
        yield columns(f"{block}far.mix.weight", self.embedding_dim, repeats=self.kernel, sends=True)


class CausalConvolution(nn.Module):
    """Row t from the rows t, t - dilation, t - 2 dilation ..., (B, L, d) to (B, L, d); zeros before the first row."""

    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self.mix = nn.Linear(kernel * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """One matrix product over the rows side by side: faster on a CPU than a dilated convolution."""
        length = x.shape[1]
        padded = F.pad(x, (0, 0, (self.kernel - 1) * self.dilation, 0))
        starts = range(0, self.kernel * self.dilation, self.dilation)
        out: Tensor = self.mix(torch.cat([padded[:, start : start + length] for start in starts], dim=2))
        return out


class ResidualBlock(nn.Module):
    """Two convolutions, each on a normalised and rectified input, added to the block's input."""

    def __init__(self, width: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.drop = Dropout(dropout)
        self.near_norm = nn.LayerNorm(width)
        self.near = CausalConvolution(width, kernel, dilation)
        self.far_norm = nn.LayerNorm(width)
        self.far = CausalConvolution(width, kernel, 2 * dilation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, d) to (B, L, d)."""
        near = self.near(F.relu(self.near_norm(x)))
        out: Tensor = x + self.drop(self.far(F.relu(self.far_norm(near))))
        return out


class NextItNet(nn.Module):
    """Item embeddings through residual blocks; no positions, the convolutions know the order."""

    inputs: ClassVar[tuple[str, ...]] = ("items", "lengths")

    def __init__(self, config: NextItNetConfig, n_items: int) -> None:
        super().__init__()
        self.config = config
        self.drop = Dropout(config.dropout)
        self.item = item_table(config.table, n_items, config.embedding_dim)
        self.blocks = nn.Sequential(
            *(ResidualBlock(config.embedding_dim, config.kernel, d, config.dropout) for d in config.dilations)
        )
        self.norm = nn.LayerNorm(config.embedding_dim)
        initial.items(self.item)

    def forward(self, inputs: Inputs) -> Tensor:
        """A vector after each event, (B, L, d)."""
        x = self.blocks(self.drop(self.item(inputs.items)))
        return user_side(self.norm(x), self.config.temperature)

    def user_vectors(self, inputs: Inputs) -> Tensor:
        """The vector after the last event, (B, d), from the events that it depends on."""
        reach = self.config.receptive_field
        start = (inputs.lengths.long() - reach).clamp(min=0)[:, None]
        within = start + torch.arange(reach, device=inputs.items.device)[None, :]
        x = self.blocks(self.item(F.pad(inputs.items, (0, reach)).gather(1, within)))
        at = (inputs.lengths.long()[:, None] - 1 - start).clamp(min=0)[:, :, None].expand(-1, -1, x.shape[2])
        return user_side(self.norm(x.gather(1, at).squeeze(1)), self.config.temperature)

    def item_vectors(self, rows: Tensor | None = None) -> Tensor:
        """(n_items + 1, d), or of `rows` (..., d): the input table serves as output table too."""
        return output_vectors(self.item, rows, self.config.temperature)
