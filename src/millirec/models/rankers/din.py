"""DIN: of a user's history, what matters for this candidate. Zhou et al., KDD 2018."""

import torch
from torch import Tensor, nn

from millirec.data.errors import ConfigError
from millirec.data.features import Schema
from millirec.models.base import RankInputs
from millirec.models.rankers.base import DeepConfig
from millirec.models.rankers.fields import FieldVectors, Hidden, output


class DINConfig(DeepConfig, frozen=True, kw_only=True, tag="din"):
    """`attention`: width of the layer that weighs an event against the candidate."""

    attention: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "attention")


class DIN(nn.Module):
    """Weighted sums of the events of each sequence, beside the other fields, through hidden layers.

    Weights are not normalised, as in the paper: how much there is of what matters, matters. So that long histories do
    not drown the rest, a sum is divided by the root of the number of events.
    """

    def __init__(self, config: DINConfig, schema: Schema) -> None:
        super().__init__()
        if not schema.sequences:
            raise ConfigError("$.ranker.kind = 'din': no feature is a sequence", "declare one of kind 'sequence'")
        self.schema = schema
        self._targets = [space.of for space in schema.sequences]
        width = config.embedding_dim
        self.vectors = FieldVectors(schema, width)
        self.attention = nn.ModuleList(_Weights(width, config.attention) for _ in schema.sequences)
        self.hidden = Hidden(self.vectors.fields * width, config.hidden, config.dropout)
        self.output = output(config.hidden[-1])

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits (B,)."""
        fields = self.vectors.without_sequences(inputs)
        events, present = self.vectors.histories(inputs)
        found = [
            self._attended(i, events[:, i], present[:, i], fields[:, target]) for i, target in enumerate(self._targets)
        ]
        x = torch.cat([fields, torch.stack(found, dim=1)], dim=1)
        logits: Tensor = self.output(self.hidden(x.flatten(1))).squeeze(1)
        return logits

    def _attended(self, which: int, events: Tensor, present: Tensor, target: Tensor) -> Tensor:
        weights = self.attention[which](events, target) * present
        counts = present.sum(1, keepdim=True).clamp(min=1).to(events.dtype)
        sums: Tensor = (weights.unsqueeze(1) @ events).squeeze(1)
        return sums / counts.sqrt()


class _Weights(nn.Module):
    """A number for each event, given the candidate: (B, L, d) and (B, d) to (B, L)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.events = nn.Linear(width, hidden, bias=False)
        self.products = nn.Linear(width, hidden, bias=False)
        self.target = nn.Linear(width, hidden)
        self.output = output(hidden)

    def forward(self, events: Tensor, target: Tensor) -> Tensor:
        products = self.products(events * target.unsqueeze(1))
        found = torch.relu(self.events(events) + products + self.target(target).unsqueeze(1))
        weights: Tensor = self.output(found).squeeze(2)
        return weights
