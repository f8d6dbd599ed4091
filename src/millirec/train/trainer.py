"""The one training loop: batches of like length, early stopping on NDCG@10, and a resume that is exact."""

import hashlib
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from millirec.data.dataset import CONTEXT, VALIDATION, Dataset
from millirec.data.errors import ConfigError, DataError, MillirecError
from millirec.models.base import Inputs, SequenceModel
from millirec.train import progress as saved
from millirec.train.adversarial import Adversary, item_table
from millirec.train.average import WeightAverage
from millirec.train.batches import TrainBatch, TrainingSequences
from millirec.train.config import TrainConfig
from millirec.train.evaluate import ndcg_at_10, rank_targets, sample_targets
from millirec.train.journal import Journal
from millirec.train.machine import Machine, autocast, fast_products, generator
from millirec.train.objective import BatchLoss, Objective, Wanted
from millirec.train.rows import RowAdam, clip_gradients, sparse_items
from millirec.train.schedule import Clock, set_learning_rate

__all__ = ["DivergedError", "Start", "TrainConfig", "Trained", "Trainer"]

_BATCHES, _NEGATIVES, _ATTACK = 1, 2, 11  # streams of random numbers


class DivergedError(MillirecError):
    """The loss is no longer a number."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The best parameters, and the course of the training."""

    parameters: dict[str, Tensor]
    history: list[saved.Epoch]
    best_epoch: int
    best_ndcg_10: float
    seconds: float


class Start(NamedTuple):
    """What an earlier training left, when this one goes on from it.

    The first `old_rows` item rows stay as they are for `frozen_epochs`. Only events after `since` (milliseconds) are
    learned from, all where it is None. `origin`: a hash of the parameters at the start.
    """

    old_rows: int
    frozen_epochs: int
    since: int | None
    origin: str


class Trainer:
    """Trains one network on the training part of a data set.

    Every random number is a function of the seed and of the epoch, save for dropout, whose generator is stored
    with the progress: a killed run that resumes takes the very steps that the unbroken run would have taken.
    An `objective` stands in the place of the one that `config.loss` describes.
    """

    def __init__(
        self,
        network: nn.Module,
        dataset: Dataset,
        max_length: int,
        config: TrainConfig,
        machine: Machine,
        start: Start | None = None,
        objective: BatchLoss | None = None,
    ) -> None:
        self.dataset, self.config, self.machine, self.max_length = dataset, config, machine, max_length
        self.device, self.start = machine.prepare(), start
        if not isinstance(network, SequenceModel):
            raise ConfigError("$.model: this kind is not trained by gradient", "use train.fit")
        self.model: SequenceModel = network
        self.network: nn.Module = network.to(self.device)
        self.sequences = _sequences(dataset, max_length, config, start)
        self.optimizer = self._optimizer()
        self.objective: BatchLoss = objective or Objective(
            config.loss, dataset, self.device, rows_only=config.sparse_rows
        )
        self.adversary = None if config.adversarial is None else Adversary(config.adversarial, item_table(self.network))
        self.average = WeightAverage(self.network, config.ema) if config.ema else None
        self._frozen = _FrozenRows(item_table(self.network), start.old_rows) if start and start.frozen_epochs else None

    def run(self, folder: Path | None, journal: Journal, *, resume: bool = False) -> Trained:
        """Train to the end. With `folder`, progress is kept there; with `resume`, taken up from there.

        Raises DivergedError when the loss is NaN (the last good progress stays on disk) and ArtifactError when
        the progress is of another run.
        """
        self.progress, self.best = saved.Progress(key=self._key()), _copy(self.network)
        if resume and folder is not None and folder.exists():
            self._take_up(folder)
        self.folder, self._saved = folder, time.monotonic()
        self._clock = Clock(self.progress.seconds, self.config.max_minutes)
        while not self.progress.finished:
            self._epoch(journal)
        return Trained(
            self.best,
            self.progress.history,
            self.progress.best_epoch,
            self.progress.best,
            self.progress.seconds,
        )

    def _epoch(self, journal: Journal) -> None:
        state, together = self.progress, self.config.accumulate
        plan = self.sequences.plan(self.config.batch_size, generator(self.machine.seed, _BATCHES, state.epoch))
        n_steps = -(-len(plan) // together)
        journal.epoch(state.epoch, n_steps, state.step)
        self.network.train()
        for step in range(state.step, n_steps):
            if self._clock.late and step:
                break
            first = step * together
            set_learning_rate(self.optimizer, self.config, state.updates, state.epoch + step / n_steps)
            batches = [self.sequences.batch(spans) for spans in plan[first : first + together]]
            with fast_products(self.device):
                loss = self._step(batches, first)
            state.loss_sum += loss
            state.step, state.updates = step + 1, state.updates + 1
            if self.average is not None:
                self.average.update(state.updates)
            journal.batch(loss)
            if step + 1 < n_steps:
                self._save_if_due()
        self._end_epoch(state.loss_sum / state.step, journal)

    def _step(self, batches: list[TrainBatch], first: int) -> float:
        """One step of the optimizer on batches number `first` and following; each target counts alike."""
        self.optimizer.zero_grad(set_to_none=True)
        counts = [int((batch.targets > 0).sum()) for batch in batches]
        total = 0.0
        for i, batch in enumerate(batches):
            total += self._backward(batch, counts[i] / sum(counts), first + i)
        self._update()
        return total

    def _backward(self, batch: TrainBatch, share: float, number: int) -> float:
        """Add the gradients of a batch with this share in the step; returns its part of the loss."""
        inputs = Inputs.of(batch.inputs, self.device)
        wanted = Wanted.of(batch, self.device)
        seed, epoch = self.machine.seed, self.progress.epoch

        def loss_of() -> Tensor:
            rng = generator(seed, _NEGATIVES, epoch, number)
            with autocast(self.device, self.config.precision):
                return finite(self.objective(self.model, inputs, wanted, rng), epoch, number)

        if self.adversary is None:
            loss = loss_of()
            (loss * share).backward()  # type: ignore[no-untyped-call]
        else:
            loss = self.adversary.backward(loss_of, share, generator(seed, _ATTACK, epoch, number))
        return loss.item() * share

    def _update(self) -> None:
        frozen = self._frozen if self.start and self.progress.epoch < self.start.frozen_epochs else None
        if frozen is not None:
            frozen.forget_gradients()
        if self.config.clip_norm:
            clip = clip_gradients if self.config.sparse_rows else nn.utils.clip_grad_norm_
            clip(self.network.parameters(), self.config.clip_norm)
        self.optimizer.step()
        if frozen is not None:  # weight decay moves rows without a gradient too
            frozen.restore()

    def _end_epoch(self, loss: float, journal: Journal) -> None:
        state, config = self.progress, self.config
        figures = {"loss": loss}
        last = self._clock.late or state.epoch + 1 >= config.epochs
        if last or (state.epoch + 1) % config.validate_every == 0:
            with self.average.applied() if self.average is not None else nullcontext():
                figures["ndcg@10"] = self._validate()
                better = figures["ndcg@10"] > state.best
                state.stale = 0 if better else state.stale + 1
                if better:
                    state.best, state.best_epoch, self.best = figures["ndcg@10"], state.epoch, _copy(self.network)
            journal.validated(state.epoch, figures, best=better)
        state.seconds = self._clock.seconds
        state.history.append(
            saved.Epoch(epoch=state.epoch, loss=loss, ndcg_10=figures.get("ndcg@10"), seconds=state.seconds)
        )
        state.finished = last or state.stale >= config.patience
        state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
        self._save_if_due(force=state.finished)

    def _validate(self) -> float:
        self.network.eval()
        limit, repeats = self.config.validation_targets, self.config.repeats
        asked = sample_targets(self.dataset, VALIDATION, limit, repeats=repeats, seed=self.machine.seed)
        ranks = rank_targets(self.model, self.dataset, asked, self.max_length, keep_seen=repeats, lists=0)
        self.network.train()
        return ndcg_at_10(ranks.ranks)

    def _save_if_due(self, *, force: bool = False) -> None:
        if self.folder is None or not (force or time.monotonic() - self._saved >= self.machine.save_every_seconds):
            return
        self.progress.seconds = self._clock.seconds
        kept = {"best": self.best}
        if self.average is not None:
            kept["average"] = self.average.averages
        saved.save(self.folder, self.progress, self.network, self.optimizer, kept)
        self._saved = time.monotonic()

    def _take_up(self, folder: Path) -> None:
        self.progress, kept = saved.load(folder, self._key(), self.network, self.optimizer)
        self.best = kept["best"]
        if self.average is not None:
            self.average.load(kept["average"])

    def _optimizer(self) -> torch.optim.Optimizer:
        rate, parameters = self.config.learning_rate, list(self.network.parameters())
        if self.config.sparse_rows:
            if self.start is not None and self.start.frozen_epochs:
                raise ConfigError("$.train.sparse_rows: rows cannot be frozen", "set $.warm_start.frozen_epochs = 0")
            sparse_items(self.network)
            return RowAdam(parameters, lr=rate, weight_decay=0.0, fused=True)
        if self.config.l2:
            return torch.optim.Adam(parameters, lr=rate, weight_decay=self.config.l2, fused=True)
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=self.config.weight_decay, fused=True)

    def _key(self) -> str:
        shapes = {name: list(value.shape) for name, value in self.network.state_dict().items()}
        course: list[Any] = [self.config, self.machine.seed, self.max_length, self.dataset.fingerprint, self.start]
        course += [self.objective.key] if self.objective.key else []
        if (self.dataset.roles == CONTEXT).any():  # thinned: the protocol does not tell which events are left
            course.append(hashlib.sha256(self.dataset.roles.tobytes()).hexdigest())
        return hashlib.sha256(msgspec.json.encode([*course, self.dataset.protocol, shapes])).hexdigest()


class _FrozenRows:
    """The first rows of the item table, kept as they are."""

    def __init__(self, table: Tensor, n: int) -> None:
        self._table, self._rows = table, table.detach()[:n].clone()

    def forget_gradients(self) -> None:
        if self._table.grad is not None:
            self._table.grad[: len(self._rows)] = 0

    def restore(self) -> None:
        self._table.data[: len(self._rows)] = self._rows


def finite(loss: Tensor, epoch: int, batch: int) -> Tensor:
    """The loss itself. Raises DivergedError when it is no number."""
    if not torch.isfinite(loss):
        raise DivergedError(
            f"the loss is {loss.item()} in epoch {epoch}, batch {batch}",
            "lower $.train.learning_rate or set $.train.clip_norm = 1.0; the last good progress is kept",
        )
    return loss


def _sequences(dataset: Dataset, max_length: int, config: TrainConfig, start: Start | None) -> TrainingSequences:
    since = None if start is None else start.since
    sequences = TrainingSequences(dataset, max_length, config.windows, since)
    if not len(sequences) and since is not None:
        raise DataError(
            "no user has a training event that is newer than those of the checkpoint",
            "use newer data, or choose $.warm_start.learn_from = 'all'",
        )
    if not len(sequences):
        raise ConfigError("no user has 2 training events", "use more data, or another split")
    return sequences


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
