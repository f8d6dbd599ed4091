"""How much quality is left when item vectors are perturbed or histories are noisy; checkpoints side by side.

Perturbations as in `train.adversarial`, here of a trained table, against the measured targets themselves: the worst
that an attacker could do who knows the answers. A random change of the same size stands beside them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.data.dataset import Dataset
from millirec.data.encode import encode
from millirec.data.errors import ConfigError
from millirec.data.split import Targets
from millirec.metrics.bootstrap import confidence_interval, paired_difference
from millirec.metrics.summary import Figure, per_target
from millirec.models.base import Inputs, Ranker, SequenceModel
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import max_length
from millirec.train.adversarial import FGM, PGD, item_table, mean_length, moved, perturbation, random_change
from millirec.train.evaluate import rank_targets
from millirec.train.machine import generator
from millirec.train.noise import Noisy

_PERTURBATION = 14  # stream of random numbers
_BATCH, _SCORES = 128, 1 << 22  # targets, and scores of the catalogue, held at once with their gradients

Values = dict[str, NDArray[np.float64]]


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Under what is measured: perturbations of these relative lengths, and these shares of noise."""

    epsilons: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2)
    pgd_steps: int = 5
    shares: tuple[float, ...] = (0.1, 0.2, 0.4)
    seed: int = 0

    def __post_init__(self) -> None:
        if not all(epsilon > 0 for epsilon in self.epsilons):
            raise ConfigError(f"$.epsilons = {list(self.epsilons)}", "choose lengths above 0")
        if not all(0 < share < 1 for share in self.shares):
            raise ConfigError(f"$.shares = {list(self.shares)}", "choose shares between 0 and 1")
        if self.pgd_steps < 1 or self.seed < 0:
            raise ConfigError("$: `pgd_steps` must be at least 1, `seed` 0 or more")

    def all(self) -> "list[Condition]":
        """Clean first."""
        listed = [Condition("clean", 0.0)]
        listed += [Condition(kind, e) for kind in ("random", "fgm", "pgd") for e in self.epsilons]
        return listed + [Condition(kind, s) for kind in ("drop", "swap", "inject") for s in self.shares]


class Condition(msgspec.Struct, frozen=True):
    """One way to disturb a model; `amount` is a relative length of perturbation, or a share of events."""

    kind: Literal["clean", "random", "fgm", "pgd", "drop", "swap", "inject"]
    amount: float

    @property
    def perturbs(self) -> bool:
        """Whether it changes item vectors, which a model that is fitted at once does not have."""
        return self.kind in ("random", "fgm", "pgd")


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one checkpoint under one condition. `kept`: the share of its clean NDCG@10 that is left."""

    checkpoint: str
    condition: Condition
    ndcg_10: Figure
    hr_10: Figure
    kept: float


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """`a` minus `b` under one condition, paired by target: the mean, its 95 % interval, the two-sided p-value.

    `metric` "fall of ndcg@10": the difference of what both lose against their own clean figures, below 0 when `a`
    loses more.
    """

    a: str
    b: str
    condition: Condition
    metric: str
    difference: float
    low: float
    high: float
    p_value: float


class Robustness(msgspec.Struct, frozen=True, kw_only=True):
    """The whole report. `without_vectors` names checkpoints without a table of item vectors to be perturbed."""

    protocol: str
    n_targets: int
    n_users: int
    conditions: Conditions
    outcomes: list[Outcome]
    gaps: list[Gap]
    without_vectors: list[str]


def robustness(
    checkpoints: Mapping[str, Checkpoint], dataset: Dataset, asked: Targets, conditions: Conditions, *, repeats: bool
) -> Robustness:
    """Measure every checkpoint under every condition; the gaps are those to the first one.

    What a noisy history hides or adds is read by the model only: the true history decides what counts as seen.
    """
    users = dataset.sequences.users[asked.places]
    values = {
        name: _Subject(checkpoint, dataset, asked, repeats).under(conditions)
        for name, checkpoint in checkpoints.items()
    }
    outcomes = [
        _outcome(name, condition, own, measured, users)
        for name, measured in values.items()
        for condition, own in measured.items()
    ]
    first, *others = values
    gaps = [gap for name in others for gap in _gaps((name, values[name]), (first, values[first]), users)]
    return Robustness(
        protocol=dataset.protocol,
        n_targets=len(asked),
        n_users=len(np.unique(users)),
        conditions=conditions,
        outcomes=outcomes,
        gaps=gaps,
        without_vectors=[name for name, own in values.items() if not any(c.perturbs for c in own)],
    )


@dataclass
class _Subject:
    """One checkpoint and what it is asked."""

    checkpoint: Checkpoint
    dataset: Dataset
    asked: Targets
    repeats: bool

    def under(self, conditions: Conditions) -> dict[Condition, Values]:
        """NDCG@10 and HR@10 of every target under every condition that the model knows."""
        network = self.checkpoint.network()
        table = item_table(network) if isinstance(getattr(network, "item", None), nn.Embedding) else None
        clean = None if table is None else self._ascent(network, table)
        out = {}
        for condition in conditions.all():
            if not condition.perturbs:
                out[condition] = self._values(self._read_by(network, condition, conditions.seed), condition)
            elif table is not None and clean is not None:
                delta = self._delta(network, table, clean, condition, conditions)
                with moved(table, delta):
                    out[condition] = self._values(network, condition)
        return out

    def _read_by(self, network: nn.Module, condition: Condition, seed: int) -> nn.Module:
        if condition.kind not in ("drop", "swap", "inject"):
            return network
        model = cast(SequenceModel | Ranker, network)
        length = max_length(self.checkpoint.config)
        return Noisy(model, condition.kind, condition.amount, len(self.dataset.items), length, seed)

    def _values(self, network: nn.Module, condition: Condition) -> Values:
        # Twice the length, so that older events come in for the dropped ones.
        length = max_length(self.checkpoint.config) * (2 if condition.kind == "drop" else 1)
        model = cast(SequenceModel | Ranker, network)
        ranks = rank_targets(model, self.dataset, self.asked, length, keep_seen=self.repeats, lists=0)
        return {name: value for name, value in per_target(ranks.ranks, (10,)).items() if name in ("ndcg@10", "hr@10")}

    def _delta(
        self, network: nn.Module, table: Tensor, clean: Tensor, condition: Condition, conditions: Conditions
    ) -> Tensor:
        epsilon, rng = condition.amount, generator(conditions.seed, _PERTURBATION)
        match condition.kind:
            case "random":
                return random_change(table, epsilon * mean_length(table), rng)
            case "fgm":
                return perturbation(FGM(epsilon=epsilon), table, clean.clone, rng)
            case _:
                attack = PGD(epsilon=epsilon, steps=conditions.pgd_steps)
                return perturbation(attack, table, lambda: self._ascent(network, table), rng)

    def _ascent(self, network: nn.Module, table: Tensor) -> Tensor:
        """The gradient of the mean cross-entropy of all targets over the whole catalogue."""
        total = torch.zeros_like(table)
        model = cast(SequenceModel, network)
        for inputs, wanted in self._batches():
            scores = model.user_vectors(inputs) @ model.item_vectors()[1:].T
            loss = F.cross_entropy(scores, wanted - 1, reduction="sum") / len(self.asked)
            total += torch.autograd.grad(loss, table)[0]
        return total

    def _batches(self) -> Iterator[tuple[Inputs, Tensor]]:
        """Histories of like length together, and the items (B,) that came next."""
        seq, asked, length = self.dataset.sequences, self.asked, max_length(self.checkpoint.config)
        size = max(1, min(_BATCH, _SCORES // len(self.dataset.items)))
        order = np.argsort(np.minimum(asked.places - asked.starts, length), kind="stable")
        for which in np.split(order, range(size, len(order), size)):
            places, starts = asked.places[which], np.maximum(asked.starts[which], asked.places[which] - length)
            spans = [slice(start, place) for start, place in zip(starts, places, strict=True)]
            batch = encode([seq.items[s] for s in spans], [seq.times[s] for s in spans], length, seq.times[places])
            yield Inputs.of(batch), torch.from_numpy(seq.items[places].astype(np.int64))


def _outcome(
    name: str, condition: Condition, own: Values, measured: dict[Condition, Values], users: NDArray[np.int32]
) -> Outcome:
    clean = float(next(iter(measured.values()))["ndcg@10"].mean())
    ndcg, hr = (Figure(*confidence_interval(own[metric], groups=users)) for metric in ("ndcg@10", "hr@10"))
    kept = ndcg.value / clean if clean else 1.0
    return Outcome(checkpoint=name, condition=condition, ndcg_10=ndcg, hr_10=hr, kept=kept)


def _gaps(
    a: tuple[str, dict[Condition, Values]], b: tuple[str, dict[Condition, Values]], users: NDArray[np.int32]
) -> Iterator[Gap]:
    """Every metric under every condition that both know."""
    clean = [next(iter(measured.values()))["ndcg@10"] for _, measured in (a, b)]
    for condition in (c for c in a[1] if c in b[1]):
        ours, theirs = a[1][condition], b[1][condition]
        pairs = {metric: (ours[metric], theirs[metric]) for metric in ("ndcg@10", "hr@10")}
        if condition.kind != "clean":
            pairs["fall of ndcg@10"] = (ours["ndcg@10"] - clean[0], theirs["ndcg@10"] - clean[1])
        for metric, (x, y) in pairs.items():
            mean, low, high, p = paired_difference(x, y, groups=users)
            yield Gap(
                a=a[0], b=b[0], condition=condition, metric=metric, difference=mean, low=low, high=high, p_value=p
            )
