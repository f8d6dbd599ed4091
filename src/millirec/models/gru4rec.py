"""GRU4Rec: a recurrent network over a user's items.

Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016, trained here with a
softmax over the catalogue or a sample of it, as in Hidasi and Karatzoglou, CIKM 2018.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from msgspec.structs import replace
from torch import Tensor, nn

from millirec.data.errors import ConfigError
from millirec.models.base import Inputs, NetworkConfig
from millirec.models.layers import initial
from millirec.models.layers.checks import check_sequence
from millirec.models.layers.dropout import Dropout
from millirec.models.layers.parts import Part, Slice, Structure, columns, item_columns, outputs, rows, with_width
from millirec.models.layers.scale import user_side
from millirec.models.layers.table import item_table, output_vectors


class GRU4RecConfig(NetworkConfig, frozen=True, kw_only=True, tag_field="kind", tag="gru4rec"):
    """Hyper-parameters of GRU4Rec. `hidden_dim` is the width of the recurrent state, `cell` what computes it.

    `max_length` bounds what is read at once, not what a state remembers. `temperature`: scores are cosines
    divided by it; None = inner products.
    """

    embedding_dim: int = 64
    hidden_dim: int = 128
    layers: int = 1
    dropout: float = 0.2
    max_length: int = 200
    cell: Literal["gru", "lstm"] = "gru"
    temperature: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sequence(self, "embedding_dim", "hidden_dim", "layers")
        if self.cell not in ("gru", "lstm"):
            raise ConfigError(f"$.model.cell = {self.cell!r}", "use 'gru' or 'lstm'")

    def structure(self) -> Structure:
        """As `NetworkConfig.structure`: hidden, width."""
        width = self.embedding_dim
        hidden = tuple(tuple(self._units(layer)) for layer in range(self.layers))
        first = columns(f"{self.cell}.weight_ih_l0", width)
        others = (first, *outputs("project", width))
        return Structure(with_width({"hidden": Part(self.hidden_dim, hidden)}, item_columns(self.table, width), others))

    def shrunk(self, counts: Mapping[str, int], blocks: Sequence[int]) -> "GRU4RecConfig":
        """As `NetworkConfig.shrunk`."""
        del blocks
        width, hidden = counts.get("width", self.embedding_dim), counts.get("hidden", self.hidden_dim)
        return replace(self, embedding_dim=width, hidden_dim=hidden)

    def _units(self, layer: int) -> Iterable[Slice]:
        """Where the units of a layer stand: its gates, its memory of itself, and what reads it."""
        units, gates = self.hidden_dim, 3 if self.cell == "gru" else 4
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            yield rows(f"{self.cell}.{name}_l{layer}", units, repeats=gates)
        yield columns(f"{self.cell}.weight_hh_l{layer}", units, sends=True)
        last = layer + 1 == self.layers
        yield columns("project.weight" if last else f"{self.cell}.weight_ih_l{layer + 1}", units, sends=True)


class GRU4Rec(nn.Module):
    """Item embeddings -> GRU or LSTM -> a projection into the space of the item embeddings. It is `Stepwise`."""

    inputs: ClassVar[tuple[str, ...]] = ("items", "lengths")

    def __init__(self, config: GRU4RecConfig, n_items: int) -> None:
        super().__init__()
        self.config = config
        self.state_size = config.layers * config.hidden_dim * (2 if config.cell == "lstm" else 1)
        self.drop = Dropout(config.dropout)
        self.item = item_table(config.table, n_items, config.embedding_dim)
        initial.items(self.item)
        sizes = config.embedding_dim, config.hidden_dim, config.layers
        if config.cell == "lstm":
            self.lstm = nn.LSTM(*sizes, batch_first=True)
        else:
            self.gru = nn.GRU(*sizes, batch_first=True)
        self.project = nn.Linear(config.hidden_dim, config.embedding_dim)

    def forward(self, inputs: Inputs) -> Tensor:
        """A vector after each event, (B, L, d)."""
        states: Tensor = self._cells(self.drop(self.item(inputs.items)))[0]
        return user_side(self.project(self.drop(states)), self.config.temperature)

    def user_vectors(self, inputs: Inputs) -> Tensor:
        """The vector after the last event, (B, d)."""
        states: Tensor = self._cells(self.item(inputs.items))[0]
        at = (inputs.lengths.long() - 1).clamp(min=0)[:, None, None].expand(-1, 1, states.shape[2])
        return user_side(self.project(states.gather(1, at).squeeze(1)), self.config.temperature)

    def step(self, state: Tensor, items: Tensor, times: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        """As `Stepwise.step`; a state holds the layers one after the other, of an LSTM first all outputs, then cells.

        Neither the time of the event nor that of the question is read.
        """
        del times, now
        parts = state.view(len(state), -1, self.config.hidden_dim).transpose(0, 1).contiguous()
        before = parts if self.config.cell == "gru" else parts.chunk(2)
        states, after = self._cells(self.item(items)[:, None], before)
        if self.config.cell == "lstm":
            after = torch.cat(after)
        return user_side(self.project(states.squeeze(1)), self.config.temperature), after.transpose(0, 1).flatten(1)

    def item_vectors(self, rows: Tensor | None = None) -> Tensor:
        """(n_items + 1, d), or of `rows` (..., d): the input table serves as output table too."""
        return output_vectors(self.item, rows, self.config.temperature)

    @property
    def _cells(self) -> nn.RNNBase:
        return self.gru if self.config.cell == "gru" else self.lstm
