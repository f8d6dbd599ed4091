"""`RankTrainer`: the training of feature rankers. Rows in batches, early stopping, and a resume that is exact."""

import hashlib
import time
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from millirec.data.dataset import TRAIN, VALIDATION
from millirec.data.errors import DataError
from millirec.data.features import RankingRows
from millirec.data.labels import UNLABELLED
from millirec.metrics import ctr
from millirec.models.base import FeatureRanker, MultiTask, RankInputs
from millirec.models.rankers.calibration import Sigmoid
from millirec.models.rankers.checkpoint import logits_of, task_logits_of
from millirec.models.rankers.fields import FieldVectors
from millirec.train import progress as saved
from millirec.train.adversarial import Adversary, value_table
from millirec.train.journal import Journal
from millirec.train.machine import Machine, fast_products, generator
from millirec.train.progress import Progress
from millirec.train.rank_config import RankTrainConfig
from millirec.train.rank_loss import Lesson, RowLoss, targets_of
from millirec.train.schedule import Clock, set_learning_rate
from millirec.train.trainer import finite

_BATCHES, _ATTACK = 21, 22  # streams of random numbers
_WORST = -1e9  # below every figure that is watched


class RankTrainer:
    """Trains one network on the training rows.

    The order of the rows is a function of seed and epoch; dropout's generator is kept with the progress: a killed run
    that resumes takes the steps that the unbroken run would have taken.
    """

    def __init__(
        self,
        network: nn.Module,
        rows: RankingRows,
        config: RankTrainConfig,
        machine: Machine,
        lesson: Lesson | None = None,
    ) -> None:
        self.rows, self.config, self.machine = rows, config, machine
        self.device = machine.prepare()
        if not isinstance(network, FeatureRanker):
            raise TypeError(f"{type(network).__name__} is no feature ranker")
        self.network: nn.Module = network.to(self.device)
        self.schema = network.schema
        self.train, self.validation = rows.part(TRAIN), rows.part(VALIDATION)
        if not len(self.train) or not len(self.validation):
            raise DataError("no rows to train on or to validate on", "use more data, or another split")
        self.optimizer = self._optimizer()
        self.loss = RowLoss(self.network, rows, config, lesson)
        attack = config.adversarial
        self.adversary = None if attack is None else Adversary(attack, value_table(self.network))

    def run(self, folder: Path | None, journal: Journal, *, resume: bool = False) -> tuple[dict[str, Tensor], Progress]:
        """Train to the end: the best parameters, and how it went.

        With `folder`, progress is kept there; with `resume`, taken up from there. Raises DivergedError when the loss
        is NaN (the last good progress stays on disk) and ArtifactError when the progress is of another run.
        """
        self.progress, self.best = Progress(key=self._key(), best=_WORST), _copy(self.network)
        if resume and folder is not None and folder.exists():
            self.progress, kept = saved.load(folder, self.progress.key, self.network, self.optimizer)
            self.best = kept["best"]
        self.folder, self._saved = folder, time.monotonic()
        self._clock = Clock(self.progress.seconds, self.config.max_minutes)
        while not self.progress.finished:
            self._epoch(journal)
        return self.best, self.progress

    def validation_logits(self) -> NDArray[np.float64]:
        """Of the validation rows, from the network as it is now."""
        self.network.eval()
        return logits_of(self.network, self.rows.features.take(self.validation))

    def _epoch(self, journal: Journal) -> None:
        state, size = self.progress, self.config.batch_size
        order = generator(self.machine.seed, _BATCHES, state.epoch).permutation(self.train)
        steps = -(-len(order) // size)
        journal.epoch(state.epoch, steps, state.step)
        self.network.train()
        for step in range(state.step, steps):
            if self._clock.late and step:
                break
            set_learning_rate(self.optimizer, self.config, state.updates, state.epoch + step / steps)
            with fast_products(self.device):
                loss = self._step(order[step * size : (step + 1) * size], step)
            state.loss_sum += loss
            state.step, state.updates = step + 1, state.updates + 1
            journal.batch(loss)
            if step + 1 < steps:
                self._save_if_due()
        self._end_epoch(state.loss_sum / state.step, journal)

    def _step(self, which: NDArray[np.int64], number: int) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        inputs = RankInputs.of(self.rows.features.take(which), self.schema, self.device)

        def loss_of() -> Tensor:
            return finite(self.loss(inputs, which), self.progress.epoch, number)

        if self.adversary is None:
            loss = loss_of()
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            rng = generator(self.machine.seed, _ATTACK, self.progress.epoch, number)
            loss = self.adversary.backward(loss_of, 1.0, rng)
        if self.config.clip_norm:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.optimizer.step()
        return loss.item()

    def _end_epoch(self, loss: float, journal: Journal) -> None:
        state, config = self.progress, self.config
        figures = self._validate()
        watched = self._watched(figures)
        better = watched > state.best
        state.stale = 0 if better else state.stale + 1
        if better:
            state.best, state.best_epoch, self.best = watched, state.epoch, _copy(self.network)
        journal.validated(state.epoch, {"loss": loss, **figures}, best=better)
        state.seconds = self._clock.seconds
        line = saved.Epoch(epoch=state.epoch, loss=loss, ndcg_10=None, seconds=state.seconds, figures=figures)
        state.history.append(line)
        state.finished = self._clock.late or state.epoch + 1 >= config.epochs or state.stale >= config.patience
        state.epoch, state.step, state.loss_sum = state.epoch + 1, 0, 0.0
        self._save_if_due(force=state.finished)

    def _validate(self) -> dict[str, float]:
        logits, labels = self.validation_logits(), self.rows.labels[self.validation]
        figures = {"auc": ctr.auc(labels, logits), "log_loss": ctr.log_loss(labels, Sigmoid().chances(logits))}
        if isinstance(self.network, MultiTask):
            figures |= task_figures(self.network, self.rows, self.validation)
        self.network.train()
        return figures

    def _watched(self, figures: dict[str, float]) -> float:
        """What is to rise: the figure, or its mean over the tasks, weighted as their losses are."""
        name, sign = self.config.monitor, 1 if self.config.monitor == "auc" else -1
        if not isinstance(self.network, MultiTask):
            return sign * figures[name]
        each = [figures[f"{task}.{name}"] for task in self.network.tasks]
        return sign * float(np.average(each, weights=self.network.loss_weights))

    def _save_if_due(self, *, force: bool = False) -> None:
        if self.folder is None or not (force or time.monotonic() - self._saved >= self.machine.save_every_seconds):
            return
        self.progress.seconds = self._clock.seconds
        saved.save(self.folder, self.progress, self.network, self.optimizer, {"best": self.best})
        self._saved = time.monotonic()

    def _optimizer(self) -> torch.optim.Optimizer:
        vectors = [p for m in self.network.modules() if isinstance(m, FieldVectors) for p in m.parameters()]
        known = {id(p) for p in vectors}
        others = [p for p in self.network.parameters() if id(p) not in known]
        groups = [
            {"params": vectors, "weight_decay": self.config.l2_embeddings},
            {"params": others, "weight_decay": self.config.l2},
        ]
        return torch.optim.Adam(groups, lr=self.config.learning_rate, fused=True)

    def _key(self) -> str:
        shapes = {name: list(value.shape) for name, value in self.network.state_dict().items()}
        rows = hashlib.sha256(self.rows.labels.tobytes() + self.rows.roles.tobytes() + self.rows.features.to_bytes())
        kind = type(self.network).__name__
        course = [self.config, self.machine.seed, rows.hexdigest(), self.loss.key, kind, shapes]
        return hashlib.sha256(msgspec.json.encode(course)).hexdigest()


def task_figures(network: MultiTask, rows: RankingRows, part: NDArray[np.int64]) -> dict[str, float]:
    """`TASK.auc` and `TASK.log_loss` of each task, on the rows of a part that have its label."""
    logits, targets = task_logits_of(network, rows.features.take(part)), targets_of(network, rows)[part]  # type: ignore[arg-type]
    out = {}
    for place, task in enumerate(network.tasks):
        known = targets[:, place] != UNLABELLED
        labels, own = targets[known, place], logits[known, place]
        out[f"{task}.auc"] = ctr.auc(labels, own)
        out[f"{task}.log_loss"] = ctr.log_loss(labels, Sigmoid().chances(own))
    return out


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
