"""The one training loop: batches of like length, early stopping on NDCG@10, and a resume that is exact."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor, nn

from millirec.data.dataset import VALIDATION, Dataset
from millirec.data.errors import ConfigError, MillirecError
from millirec.models.base import Inputs, SequenceModel
from millirec.train import progress as saved
from millirec.train.batches import TrainBatch, TrainingSequences
from millirec.train.evaluate import ndcg_at_10, rank_targets, sample_targets
from millirec.train.journal import Journal
from millirec.train.losses import FullSoftmax, LossConfig, SampledSoftmax, full_softmax, sampled_softmax
from millirec.train.machine import Machine, autocast, generator
from millirec.train.negatives import NegativeSampler

_BATCHES, _NEGATIVES = 1, 2  # streams of random numbers


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a network is trained.

    `weight_decay` is decoupled (AdamW); `l2` is added to the loss's gradient (Adam). Training ends after
    `epochs`, after `max_minutes`, or when NDCG@10 on the validation part has not risen in `patience`
    validations; the best weights are kept. `validation_targets` > 0 validates on a sample of that size.
    `decay_epochs` > 0 lowers the learning rate along a cosine to a tenth over that many epochs.
    """

    loss: LossConfig = FullSoftmax()
    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    l2: float = 0.0
    clip_norm: float = 0.0
    warmup_steps: int = 0
    decay_epochs: int = 0
    patience: int = 10
    validate_every: int = 1
    validation_targets: int = 0
    max_minutes: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    repeats: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "validate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"$.train.{name} = {getattr(self, name)}", "choose at least 1")
        for name in ("weight_decay", "l2", "clip_norm", "warmup_steps", "decay_epochs", "validation_targets"):
            if getattr(self, name) < 0:
                raise ConfigError(f"$.train.{name} = {getattr(self, name)}", "choose 0 or more")
        if self.learning_rate <= 0 or (self.max_minutes is not None and self.max_minutes <= 0):
            raise ConfigError("$.train: `learning_rate` and `max_minutes` must be above 0")
        if self.weight_decay and self.l2:
            raise ConfigError("$.train: both `weight_decay` and `l2` are set", "choose one")


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


class Trainer:
    """Trains one network on the training part of a data set.

    Every random number is a function of the seed and of the epoch, save for dropout, whose generator is stored
    with the progress: a killed run that resumes takes the very steps that the unbroken run would have taken.
    """

    def __init__(
        self, network: nn.Module, dataset: Dataset, max_length: int, config: TrainConfig, machine: Machine
    ) -> None:
        self.dataset, self.config, self.machine, self.max_length = dataset, config, machine, max_length
        self.device = machine.prepare()
        if not isinstance(network, SequenceModel):
            raise ConfigError("$.model: this kind is not trained by gradient", "use train.fit")
        self.model: SequenceModel = network
        self.network: nn.Module = network.to(self.device)
        self.sequences = TrainingSequences(dataset, max_length)
        if not len(self.sequences):
            raise ConfigError("no user has 2 training events", "use more data, or another split")
        self.optimizer = self._optimizer()
        self.loss = _loss(config.loss, dataset, self.device)

    def run(self, folder: Path | None, journal: Journal, *, resume: bool = False) -> Trained:
        """Train to the end. With `folder`, progress is kept there; with `resume`, taken up from there.

        Raises DivergedError when the loss is NaN (the last good progress stays on disk) and ArtifactError when
        the progress is of another run.
        """
        self.progress, self.best = saved.Progress(key=self._key()), _copy(self.network)
        if resume and folder is not None and folder.exists():
            self.progress, self.best = saved.load(folder, self._key(), self.network, self.optimizer)
        self.folder, self._since, self._saved = folder, time.monotonic(), time.monotonic()
        self._before = self.progress.seconds
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
        state = self.progress
        plan = self.sequences.plan(self.config.batch_size, generator(self.machine.seed, _BATCHES, state.epoch))
        journal.epoch(state.epoch, len(plan), state.step)
        self.network.train()
        for step in range(state.step, len(plan)):
            if self._late() and step:
                break
            loss = self._step(self.sequences.batch(plan[step]), step, len(plan))
            state.loss_sum += loss
            state.step = step + 1
            journal.batch(loss)
            if step + 1 < len(plan):
                self._save_if_due()
        self._end_epoch(state.loss_sum / state.step, journal)

    def _step(self, batch: TrainBatch, step: int, n_steps: int) -> float:
        inputs = Inputs.of(batch.inputs, self.device)
        wanted = torch.from_numpy(batch.targets).to(self.device)
        self._set_learning_rate(self.progress.epoch * n_steps + step, n_steps)
        with autocast(self.device, self.config.precision):
            hidden = self.model.forward(inputs)
        real = wanted > 0
        rng = generator(self.machine.seed, _NEGATIVES, self.progress.epoch, step)
        with autocast(self.device, self.config.precision):
            loss = self.loss(hidden[real].float(), self.model.item_vectors(), wanted[real], rng)
        if not torch.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss.item()} in epoch {self.progress.epoch}, batch {step}",
                "lower $.train.learning_rate or set $.train.clip_norm = 1.0; the last good progress is kept",
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.optimizer.step()
        return loss.item()

    def _end_epoch(self, loss: float, journal: Journal) -> None:
        state, config = self.progress, self.config
        figures = {"loss": loss}
        last = self._late() or state.epoch + 1 >= config.epochs
        if last or (state.epoch + 1) % config.validate_every == 0:
            figures["ndcg@10"] = self._validate()
            better = figures["ndcg@10"] > state.best
            state.stale = 0 if better else state.stale + 1
            if better:
                state.best, state.best_epoch, self.best = figures["ndcg@10"], state.epoch, _copy(self.network)
            journal.validated(state.epoch, figures, best=better)
        state.seconds = self._elapsed()
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
        ranks = rank_targets(self.model, self.dataset, asked, self.max_length, keep_seen=repeats)
        self.network.train()
        return ndcg_at_10(ranks.ranks)

    def _save_if_due(self, *, force: bool = False) -> None:
        if self.folder is None or not (force or time.monotonic() - self._saved >= self.machine.save_every_seconds):
            return
        self.progress.seconds = self._elapsed()
        saved.save(self.folder, self.progress, self.network, self.optimizer, self.best)
        self._saved = time.monotonic()

    def _late(self) -> bool:
        limit = self.config.max_minutes
        return limit is not None and self._elapsed() > 60 * limit

    def _elapsed(self) -> float:
        return self._before + time.monotonic() - self._since

    def _set_learning_rate(self, step: int, n_steps: int) -> None:
        """A function of the step alone, so that a resume needs no scheduler state."""
        rate, config = self.config.learning_rate, self.config
        if config.warmup_steps:
            rate *= min(1.0, (step + 1) / config.warmup_steps)
        if config.decay_epochs:
            share = min(1.0, step / (n_steps * config.decay_epochs))
            rate *= 0.55 + 0.45 * float(torch.cos(torch.tensor(share * torch.pi)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _optimizer(self) -> torch.optim.Optimizer:
        rate, parameters = self.config.learning_rate, list(self.network.parameters())
        if self.config.l2:
            return torch.optim.Adam(parameters, lr=rate, weight_decay=self.config.l2, fused=True)
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=self.config.weight_decay, fused=True)

    def _key(self) -> str:
        shapes = {name: list(value.shape) for name, value in self.network.state_dict().items()}
        course: list[Any] = [self.config, self.machine.seed, self.max_length, self.dataset.fingerprint]
        return hashlib.sha256(msgspec.json.encode([*course, self.dataset.protocol, shapes])).hexdigest()


_Loss = Callable[[Tensor, Tensor, Tensor, Any], Tensor]


def _loss(config: LossConfig, dataset: Dataset, device: torch.device) -> _Loss:
    match config:
        case FullSoftmax():
            return lambda hidden, items, wanted, _: full_softmax(hidden, items, wanted)
        case SampledSoftmax(negatives=n, sampling=sampling, power=power):
            power = power if sampling == "popularity" else 0.0
            sampler = NegativeSampler.of(dataset.popularity, n, power, device)
            return lambda hidden, items, wanted, rng: sampled_softmax(hidden, items, wanted, sampler.draw(rng))


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
