"""How much a weight, or a unit of a network, matters.

"magnitude": its size (Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS
2015). "taylor": how much the loss would change without it, to first order (Molchanov et al., "Importance Estimation
for Neural Network Pruning", CVPR 2019): the weight times its gradient, on batches of training data.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from millirec.compress.workshop import Workshop
from millirec.data.errors import ConfigError
from millirec.models.base import Inputs, SequenceModel
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import max_length
from millirec.models.layers.dropout import Dropout
from millirec.models.layers.parts import BLOCKS, Group, Structure
from millirec.train.batches import TrainingSequences
from millirec.train.config import TrainConfig
from millirec.train.losses import FullSoftmax, LossConfig
from millirec.train.machine import generator
from millirec.train.objective import Objective, Wanted

Importance = Literal["magnitude", "taylor"]

_BATCHES, _NEGATIVES = 22, 23  # streams of random numbers
_BATCH_SIZE = 32


class UnitScores(NamedTuple):
    """The higher, the more it matters: (units,) for each group of each part, and (blocks,)."""

    units: dict[str, list[Tensor]]
    blocks: Tensor


def effects(
    checkpoint: Checkpoint, workshop: Workshop, batches: int, train: TrainConfig | None
) -> Iterator[dict[str, Tensor]]:
    """Every parameter times its gradient, by name, for one random batch of training data after another.

    The loss is that of `train`, where there is none that of the checkpoint's own training. Nothing is dropped out.
    """
    dataset, machine = workshop.dataset_of(checkpoint), workshop.machine
    network = _attentive(checkpoint.network().to(machine.prepare()))
    assert isinstance(network, SequenceModel)  # noqa: S101
    device = next(network.parameters()).device
    loss_of = Objective(loss_of_training(checkpoint) if train is None else train.loss, dataset, device)
    sequences = TrainingSequences(dataset, max_length(checkpoint.config))
    if not len(sequences):
        raise ConfigError("no user has 2 training events", "use more data, or importance = 'magnitude'")
    plan = sequences.plan(_BATCH_SIZE, generator(machine.seed, _BATCHES))[:batches]
    for number, spans in enumerate(plan):
        batch = sequences.batch(spans)
        network.zero_grad(set_to_none=True)
        rng = generator(machine.seed, _NEGATIVES, number)
        loss = loss_of(network, Inputs.of(batch.inputs, device), Wanted.of(batch, device), rng)
        loss.backward()  # type: ignore[no-untyped-call]
        yield {name: _effect(parameter) for name, parameter in network.named_parameters()}


def loss_of_training(checkpoint: Checkpoint) -> LossConfig:
    """The loss that a checkpoint was trained with; the full softmax where it does not say."""
    for step in reversed(checkpoint.lineage):
        training = step.settings.get("train") or step.settings  # a step of a recipe trains as its `train` says
        if "loss" in training:
            loss: LossConfig = msgspec.convert(training["loss"], LossConfig)
            return loss
    return FullSoftmax()


def weight_scores(
    checkpoint: Checkpoint, names: list[str], found: Iterator[dict[str, Tensor]] | None
) -> dict[str, Tensor]:
    """For each of the parameters `names` a score of each weight; `found`: `effects`, None = by magnitude."""
    if found is None:
        return {name: checkpoint.parameters[name].abs() for name in names}
    scores = {name: torch.zeros_like(checkpoint.parameters[name]) for name in names}
    for effect in found:
        for name, score in scores.items():
            score += effect[name].abs()
    return scores


def unit_scores(checkpoint: Checkpoint, structure: Structure, found: Iterator[dict[str, Tensor]] | None) -> UnitScores:
    """A score of each unit and block.

    By magnitude: the L2 norm of all weights that go with it (Fang et al., "DepGraph", CVPR 2023). By Taylor: the sum
    over those through which it acts on the rest, which is the slope of the loss along a factor on what it gives.
    """
    if found is None:
        squares = {name: value.square() for name, value in checkpoint.parameters.items() if value.is_floating_point()}
        sums = _sums(squares, structure, sending=False)
        return UnitScores(
            {part: [total.sqrt() for total in groups] for part, groups in sums.units.items()}, sums.blocks.sqrt()
        )
    units = {part: [torch.zeros(kind.units) for _ in kind.groups] for part, kind in structure.parts.items()}
    blocks = torch.zeros(structure.blocks)
    for effect in found:
        sums = _sums(effect, structure, sending=True)
        for part, groups in sums.units.items():
            for total, own in zip(units[part], groups, strict=True):
                total += own.abs()
        blocks += sums.blocks.abs()
    return UnitScores(units, blocks)


def best(scores: Tensor, count: int) -> NDArray[np.int64]:
    """The places of the `count` highest scores, in order; among equal ones the first."""
    order = scores.argsort(descending=True, stable=True)[:count]
    return np.sort(order.numpy())


def _sums(values: Mapping[str, Tensor], structure: Structure, *, sending: bool) -> UnitScores:
    units = {
        part: [_group_sums(values, group, sending=sending) for group in kind.groups]
        for part, kind in structure.parts.items()
    }
    blocks = [_block_sum(values, f"{BLOCKS}{i}.", structure, sending=sending) for i in range(structure.blocks)]
    return UnitScores(units, torch.tensor(blocks))


def _group_sums(values: Mapping[str, Tensor], group: Group, *, sending: bool) -> Tensor:
    total = torch.zeros(len(group[0].places))
    for piece in group:
        if piece.sends or not sending:
            value = values[piece.name]
            line = value.movedim(piece.axis, 0).reshape(value.shape[piece.axis], -1).sum(1)
            total += line[torch.from_numpy(piece.places)].sum(1)
    return total


def _block_sum(values: Mapping[str, Tensor], block: str, structure: Structure, *, sending: bool) -> float:
    if sending:
        return sum(float(values[block + name].sum()) for name in structure.outputs)
    return sum(float(value.sum()) for name, value in values.items() if name.startswith(block))


def _attentive(network: nn.Module) -> nn.Module:
    """In training mode, for its cheaper gradients, but without dropout."""
    network.train()
    for module in network.modules():
        if isinstance(module, Dropout):
            module.eval()
    return network


def _effect(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        return torch.zeros_like(parameter, device="cpu")
    return (parameter.detach() * parameter.grad).cpu()
