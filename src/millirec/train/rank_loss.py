"""`RowLoss`: what a feature ranker is trained to make small, of a batch of rows."""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.data.errors import ConfigError, DataError
from millirec.data.features import RankingRows
from millirec.data.labels import MAIN, UNLABELLED
from millirec.models.base import MultiTask, RankInputs
from millirec.train.rank_config import RankTrainConfig


class Lesson:
    """What a teacher says of every row: its logits (n,), and the `share` of its voice in the loss.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, for two classes.
    """

    def __init__(self, logits: NDArray[np.float64], share: float) -> None:
        self.chances = torch.sigmoid(torch.from_numpy(logits)).float()
        self.share = share


class RowLoss:
    """Binary cross-entropy; of a network with several tasks, the weighted sum over the tasks that a row has labels of.

    With propensities, a row weighs as much as its chance to be shown was small (Horvitz and Thompson, JASA 1952), at
    most `max_weight`; the weights of a batch are brought to a mean of 1.
    """

    def __init__(
        self, network: nn.Module, rows: RankingRows, config: RankTrainConfig, lesson: Lesson | None = None
    ) -> None:
        self._network, self._lesson = network, lesson
        self._targets = torch.from_numpy(targets_of(network, rows))
        self._shares = torch.tensor(network.loss_weights if isinstance(network, MultiTask) else (1.0,))
        self._weights = None if config.propensities is None else _weights(rows, config.propensities, config.max_weight)
        if lesson is not None and isinstance(network, MultiTask):
            raise ConfigError("a network of several tasks cannot be taught by one score", "distil into another kind")

    @property
    def key(self) -> str:
        """A hash of what is learned, for the progress of a training."""
        digest = hashlib.sha256(self._targets.numpy().tobytes())
        for part in (self._weights, None if self._lesson is None else self._lesson.chances):
            digest.update(b"-" if part is None else part.numpy().tobytes())
        return digest.hexdigest()

    def __call__(self, inputs: RankInputs, which: NDArray[np.int64]) -> Tensor:
        """The loss (scalar) of these rows, whose features are `inputs`."""
        network, device = self._network, inputs.ids.device
        logits = network.task_logits(inputs) if isinstance(network, MultiTask) else network(inputs).unsqueeze(1)
        targets = self._targets[which].to(device)
        known = (targets != UNLABELLED).float()
        losses = F.binary_cross_entropy_with_logits(logits, targets.float().clamp_min(0), reduction="none")
        if self._lesson is not None:
            soft = self._lesson.chances[which].to(device).unsqueeze(1)
            taught = F.binary_cross_entropy_with_logits(logits, soft, reduction="none")
            losses = (1 - self._lesson.share) * losses + self._lesson.share * taught
        if self._weights is not None:
            known = known * self._weights[which].to(device).unsqueeze(1)
        means = (losses * known).sum(0) / known.sum(0).clamp_min(1e-12)
        loss: Tensor = (means * self._shares.to(device)).sum()
        return loss


def targets_of(network: nn.Module, rows: RankingRows) -> NDArray[np.int8]:
    """Labels (n, T) in the order of the network's tasks; (n, 1) of a network that has one. -1 = not known.

    Raises ConfigError for a task that the rows have no labels of.
    """
    names = network.tasks if isinstance(network, MultiTask) else (MAIN,)
    known = {MAIN: rows.labels, **rows.tasks}
    lacking = [name for name in names if name not in known]
    if lacking:
        raise ConfigError(f"$.ranker.serve names {lacking}, $.label.tasks {sorted(rows.tasks)}", "name the same tasks")
    return np.stack([known[name] for name in names], axis=1)


def _weights(rows: RankingRows, source: str, largest: float) -> Tensor:
    name = source.removeprefix("context.")
    if name not in rows.context:
        raise DataError(f"$.train.propensities = {source!r}: rows have no such context", "log it, or leave it out")
    chances = np.asarray(rows.context[name], np.float64)
    if not ((chances > 0) & (chances <= 1)).all():
        raise DataError(f"{source}: chances must lie above 0, at most at 1", "leave other rows out")
    return torch.from_numpy(np.minimum(1 / chances, largest)).float()
