"""GRU4Rec: a recurrent network over a user's items.

Hidasi et al., "Session-based Recommendations with Recurrent Neural Networks", ICLR 2016, trained here with a
softmax over the catalogue or a sample of it, as in Hidasi and Karatzoglou, CIKM 2018.
"""

from typing import ClassVar

import msgspec
import torch
from torch import Tensor, nn

from millirec.data.errors import ConfigError
from millirec.models.base import Inputs
from millirec.models.layers.dropout import Dropout


class GRU4RecConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="gru4rec"
):
    """Hyper-parameters of GRU4Rec. `hidden_dim` is the width of the recurrent state."""

    embedding_dim: int = 64
    hidden_dim: int = 128
    layers: int = 1
    dropout: float = 0.2
    max_length: int = 200

    def __post_init__(self) -> None:
        if min(self.embedding_dim, self.hidden_dim, self.layers) < 1:
            raise ConfigError("$.model: `embedding_dim`, `hidden_dim` and `layers` must be at least 1")
        if self.max_length < 2:
            raise ConfigError(f"$.model.max_length = {self.max_length}", "a sequence needs at least 2 events")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"$.model.dropout = {self.dropout}", "choose a share from 0 to below 1")


class GRU4Rec(nn.Module):
    """Item embeddings -> GRU -> a projection into the space of the item embeddings."""

    inputs: ClassVar[tuple[str, ...]] = ("items", "lengths")

    def __init__(self, config: GRU4RecConfig, n_items: int) -> None:
        super().__init__()
        self.drop = Dropout(config.dropout)
        self.item = nn.Embedding(n_items + 1, config.embedding_dim, padding_idx=0)
        nn.init.normal_(self.item.weight, std=0.02)
        self.gru = nn.GRU(config.embedding_dim, config.hidden_dim, config.layers, batch_first=True)
        self.project = nn.Linear(config.hidden_dim, config.embedding_dim)
        with torch.no_grad():
            self.item.weight[0].zero_()

    def forward(self, inputs: Inputs) -> Tensor:
        """A vector after each event, (B, L, d)."""
        states: Tensor = self.gru(self.drop(self.item(inputs.items)))[0]
        out: Tensor = self.project(self.drop(states))
        return out

    def user_vectors(self, inputs: Inputs) -> Tensor:
        """The vector after the last event, (B, d)."""
        states: Tensor = self.gru(self.item(inputs.items))[0]
        at = (inputs.lengths.long() - 1).clamp(min=0)[:, None, None].expand(-1, 1, states.shape[2])
        out: Tensor = self.project(states.gather(1, at).squeeze(1))
        return out

    def item_vectors(self) -> Tensor:
        """(n_items + 1, d): the input embeddings serve as output embeddings too."""
        return self.item.weight
