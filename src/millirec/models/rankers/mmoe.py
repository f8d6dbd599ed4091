"""Multi-gate mixture of experts: several outcomes of one row, learned together. Ma et al., KDD 2018."""

from typing import Literal

import torch
from msgspec import field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.data.features import Schema
from millirec.data.labels import MAIN
from millirec.models.base import RankInputs
from millirec.models.rankers.base import DeepConfig
from millirec.models.rankers.fields import FieldVectors, Hidden, output


class MMoEConfig(DeepConfig, frozen=True, kw_only=True, tag="mmoe"):
    """`experts` networks with the layers of `hidden`; each task mixes them by a gate of its own, and reads the mixture
    through the layers of `towers`.

    `serve`: the tasks by name, in this order, and the weight that each has in the score that is served; 0 = learned,
    not served. "success" is the label itself. `combine` "sum": the weighted mean of the chances; "product": their
    weighted geometric mean. `losses`: the weight of a task's loss, 1 where it is left out.
    """

    experts: int = 4
    towers: tuple[int, ...] = (64,)
    serve: dict[str, float] = field(default_factory=lambda: {MAIN: 1.0})
    combine: Literal["sum", "product"] = "sum"
    losses: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "experts", "towers")
        if not self.towers:
            raise self.refused("towers", "name the width of at least one layer")
        if min(self.serve.values(), default=0) < 0 or not sum(self.serve.values()) > 0:
            raise self.refused("serve", "name the tasks with weights of 0 or more, one of them above 0")
        unknown = sorted(self.losses.keys() - self.serve.keys())
        if unknown:
            raise self.refused("losses", f"name {unknown} in $.ranker.serve, or leave it out")
        if min(self.losses.values(), default=1) <= 0:
            raise self.refused("losses", "choose weights above 0")


class MMoE(nn.Module):
    """Experts that all tasks share, a gate and a tower for each task."""

    served: Tensor

    def __init__(self, config: MMoEConfig, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self.tasks = tuple(config.serve)
        self.loss_weights = tuple(config.losses.get(task, 1.0) for task in self.tasks)
        self.combine: Literal["sum", "product"] = config.combine
        weights = torch.tensor(list(config.serve.values()), dtype=torch.float32)
        self.register_buffer("served", weights / weights.sum(), persistent=False)
        self.vectors = FieldVectors(schema, config.embedding_dim)
        width, found = self.vectors.fields * config.embedding_dim, config.hidden[-1]
        self.experts = nn.ModuleList(Hidden(width, config.hidden, config.dropout) for _ in range(config.experts))
        self.gates = nn.ModuleList(nn.Linear(width, config.experts) for _ in self.tasks)
        self.towers = nn.ModuleList(Hidden(found, config.towers, config.dropout) for _ in self.tasks)
        self.outputs = nn.ModuleList(output(config.towers[-1]) for _ in self.tasks)

    def task_logits(self, inputs: RankInputs) -> Tensor:
        """(B, T), in the order of `tasks`."""
        x = self.vectors(inputs).flatten(1)
        found = torch.stack([expert(x) for expert in self.experts], dim=1)  # (B, E, h)
        logits = []
        for gate, tower, last in zip(self.gates, self.towers, self.outputs, strict=True):
            mixed = (gate(x).softmax(1).unsqueeze(2) * found).sum(1)
            logits.append(last(tower(mixed)))
        return torch.cat(logits, dim=1)

    def forward(self, inputs: RankInputs) -> Tensor:
        """The logit (B,) of the score that is served."""
        return combined(self.task_logits(inputs), self.served, self.combine)


def combined(logits: Tensor, weights: Tensor, how: Literal["sum", "product"]) -> Tensor:
    """The logit (B,) of the weighted mean of the chances of (B, T) logits, arithmetic or geometric; weights (T,) sum up
    to 1."""
    if how == "sum":
        shares = weights.clamp(min=1e-30).log()  # a task of no weight adds nothing that a float could hold
        yes = torch.logsumexp(shares + F.logsigmoid(logits), dim=1)
        no = torch.logsumexp(shares + F.logsigmoid(-logits), dim=1)
        return yes - no
    log_chance = (weights * F.logsigmoid(logits)).sum(1).clamp(max=-1e-7)
    return log_chance - torch.log(-torch.expm1(log_chance))
