"""Caser: convolutions over a user's newest items as over an image.

Tang and Wang, "Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding", WSDM 2018.
The vector of the user as a person is left out: a server answers people whom training has not seen.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from msgspec.structs import replace
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.data.errors import ConfigError
from millirec.models.base import Inputs, NetworkConfig
from millirec.models.layers import initial
from millirec.models.layers.checks import check_sequence
from millirec.models.layers.dropout import Dropout
from millirec.models.layers.parts import Part, Slice, Structure, columns, item_columns, outputs, with_width
from millirec.models.layers.scale import user_side
from millirec.models.layers.table import item_table, output_vectors


class CaserConfig(NetworkConfig, frozen=True, kw_only=True, tag_field="kind", tag="caser"):
    """Hyper-parameters of Caser. A vector comes from the newest `window` events; `max_length` is how much of a
    history is learnt from. `horizontal` filters for each height from 1 to `window`, and `vertical` filters.
    `temperature`: scores are cosines divided by it; None = inner products."""

    embedding_dim: int = 64
    window: int = 8
    horizontal: int = 16
    vertical: int = 8
    dropout: float = 0.2
    max_length: int = 200
    temperature: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sequence(self, "embedding_dim", "horizontal", "vertical")
        if not 1 <= self.window <= self.max_length:
            raise ConfigError(f"$.model.window = {self.window}", f"choose 1 to `max_length` = {self.max_length}")

    def structure(self) -> Structure:
        """As `NetworkConfig.structure`: filters (horizontal ones of each height), width."""
        filters = Part(self.horizontal, tuple(tuple(self._filters(i)) for i in range(self.window)))
        items = item_columns(self.table, self.embedding_dim)
        return Structure(with_width({"filters": filters}, items, tuple(self._read()), tuple(self._dense())))

    def shrunk(self, counts: Mapping[str, int], blocks: Sequence[int]) -> "CaserConfig":
        """As `NetworkConfig.shrunk`."""
        del blocks
        width, filters = counts.get("width", self.embedding_dim), counts.get("filters", self.horizontal)
        return replace(self, embedding_dim=width, horizontal=filters)

    def _filters(self, number: int) -> Iterable[Slice]:
        yield from outputs(f"horizontal.{number}", self.horizontal)
        yield columns("dense.weight", self.horizontal, start=number * self.horizontal, sends=True)

    def _read(self) -> Iterable[Slice]:
        """Where the width of the item vectors stands."""
        width, after = self.embedding_dim, self.window * self.horizontal
        for i in range(self.window):
            yield columns(f"horizontal.{i}.weight", width, repeats=i + 1)
        yield columns("dense.weight", width, width=self.vertical, start=after)
        yield from outputs("project", width)

    def _dense(self) -> Iterable[Slice]:
        """The units of the dense layer: as many as the width."""
        yield from outputs("dense", self.embedding_dim)
        yield columns("project.weight", self.embedding_dim, sends=True)


class Caser(nn.Module):
    """Horizontal filters find runs of items, vertical ones weigh the places; a layer and a projection follow.

    Windows overlap, so a horizontal filter runs once over the whole history, and a sliding maximum serves every
    window.
    """

    inputs: ClassVar[tuple[str, ...]] = ("items", "lengths")

    def __init__(self, config: CaserConfig, n_items: int) -> None:
        super().__init__()
        width = config.embedding_dim
        self.config, self.window = config, config.window
        self.drop = Dropout(config.dropout)
        self.item = item_table(config.table, n_items, width)
        self.horizontal = nn.ModuleList(
            nn.Linear(height * width, config.horizontal) for height in range(1, config.window + 1)
        )
        self.vertical = nn.Linear(config.window, config.vertical, bias=False)
        self.dense = nn.Linear(config.window * config.horizontal + config.vertical * width, width)
        self.project = nn.Linear(width, width)
        initial.items(self.item)

    def forward(self, inputs: Inputs) -> Tensor:
        """A vector after each event, (B, L, d)."""
        return self._vectors(F.pad(self.item(inputs.items), (0, 0, self.window - 1, 0)))

    def user_vectors(self, inputs: Inputs) -> Tensor:
        """The vector after the last event, (B, d), from the newest `window` events."""
        x = F.pad(self.item(inputs.items), (0, 0, self.window - 1, 0))
        start = (inputs.lengths.long() - 1).clamp(min=0)[:, None]
        within = start + torch.arange(self.window, device=x.device)[None, :]
        newest = x.gather(1, within[:, :, None].expand(-1, -1, x.shape[2]))
        return self._vectors(newest).squeeze(1)

    def item_vectors(self, rows: Tensor | None = None) -> Tensor:
        """(n_items + 1, d), or of `rows` (..., d): the input table serves as output table too."""
        return output_vectors(self.item, rows, self.config.temperature)

    def _vectors(self, x: Tensor) -> Tensor:
        """(B, L, d) from events with `window` - 1 empty rows before them, (B, window - 1 + L, d)."""
        length = x.shape[1] - self.window + 1
        found = [self._found(x, height, length) for height in range(1, self.window + 1)]
        rows = torch.stack([x[:, i : i + length] for i in range(self.window)], dim=3)
        seen = torch.cat([*found, self.vertical(rows).flatten(2)], dim=2)
        return user_side(self.project(F.relu(self.dense(self.drop(seen)))), self.config.temperature)

    def _found(self, x: Tensor, height: int, length: int) -> Tensor:
        """The strongest answer of each filter of one height within each window, (B, L, horizontal)."""
        ends = x.shape[1] - height + 1
        runs = torch.cat([x[:, i : i + ends] for i in range(height)], dim=2)
        answers: Tensor = self.horizontal[height - 1](runs)
        best = answers[:, :length]
        for i in range(1, self.window - height + 1):
            best = torch.maximum(best, answers[:, i : i + length])
        return F.relu(best)
