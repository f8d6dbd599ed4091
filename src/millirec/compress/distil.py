"""Distillation: a student learns what its teachers answer, beside what really came next."""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import Tensor, nn

from millirec.compress.lessons import Lessons, Panel
from millirec.compress.recovery import measured
from millirec.compress.sparsity import keep_zeros
from millirec.compress.taught import Taught
from millirec.compress.workshop import Workshop
from millirec.data.dataset import Dataset
from millirec.data.errors import ArtifactError, ConfigError
from millirec.models.base import Masked, NetworkConfig, SequenceModel
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig, build, max_length
from millirec.train.config import TrainConfig
from millirec.train.item_codes import prepare_table
from millirec.train.losses import FullSoftmax, SampledSoftmax
from millirec.train.losses.soft import Blend
from millirec.train.negatives import CatalogSampler
from millirec.train.trainable import check_trainable
from millirec.train.trainer import Trainer

_FREE = {"dropout"}  # what may differ where parameters are taken over: it shapes none of them


class Distil(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="distil"):
    """Trains a `student`, None = a network like the incoming one, on the answers of teachers.

    Teachers are the incoming checkpoint, unless `incoming_teaches` is off, and those at the paths `teachers`; their
    softmaxes are mixed by `weights`, in that order, None = equally. `alpha`: their share in the loss, the rest is the
    true next item's. `temperature` softens the teachers' answers and the student's. `train`: how the student is
    trained; `start` = "incoming" goes on from the incoming parameters (zeros stay zeros), "fresh" from none.

    `top` > 0 keeps of each answer the best items only, 0 all. It is what large catalogues need: with `top` the loss
    may be a sampled softmax over uniform negatives, and a step's time does not grow with the catalogue.
    """

    student: ModelConfig | None = None
    teachers: tuple[str, ...] = ()
    incoming_teaches: bool = True
    weights: tuple[float, ...] | None = None
    alpha: float = 0.5
    temperature: float = 1.0
    top: int = 0
    train: TrainConfig = TrainConfig()
    start: Literal["fresh", "incoming"] = "fresh"

    def __post_init__(self) -> None:
        count = len(self.teachers) + self.incoming_teaches
        if not count:
            raise ConfigError("nobody teaches", "name `teachers`, or set incoming_teaches = true")
        if self.weights is not None and len(self.weights) != count:
            raise ConfigError(
                f"{len(self.weights)} `weights` for {count} teachers", "give one each, the incoming first"
            )
        if self.weights is not None and not all(0 < weight < float("inf") for weight in self.weights):
            raise ConfigError(f"weights = {list(self.weights)}", "choose numbers above 0")
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha = {self.alpha}", "choose a share from 0 to 1")
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(f"temperature = {self.temperature}", "choose a number above 0, such as 1 or 2")
        if self.top < 0:
            raise ConfigError(f"top = {self.top}", "choose 0 (all items) or more")
        if self.start not in ("fresh", "incoming"):
            raise ConfigError(f"start = {self.start!r}", "use 'fresh' or 'incoming'")
        self._check_loss()

    def _check_loss(self) -> None:
        loss = self.train.loss
        if isinstance(loss, FullSoftmax):
            return
        if not isinstance(loss, SampledSoftmax) or loss.sampling != "uniform" or loss.per_row:
            raise ConfigError(
                f"train.loss.kind = {loss.__struct_config__.tag!r} cannot be softened as it is set",
                "use 'full-softmax', or 'sampled-softmax' with sampling = 'uniform' and without per_row",
            )
        if not self.top:
            raise ConfigError(
                "train.loss samples, and top = 0 asks for all items", "choose top = 100, or 'full-softmax'"
            )

    @property
    def needs_data(self) -> bool:
        """Teachers answer to training events."""
        return True

    def rewritten(self, config: ModelConfig, n_items: int) -> ModelConfig:
        """The student's config."""
        student = config if self.student is None else self.student
        _check_student(student, self.train)
        if self.incoming_teaches:
            _check_teacher(config, "the incoming model")
        if self.start == "incoming":
            _check_same(config, student)
        for number, teacher in enumerate(self._opened()):
            if len(teacher.catalog) != n_items:
                raise ConfigError(
                    f"teachers[{number}] knows {len(teacher.catalog):,} items, the incoming model {n_items:,}",
                    "use teachers that were trained on the same data",
                )
        return student

    def meet(self, checkpoint: Checkpoint) -> None:
        """Raises ConfigError when a teacher knows other items than the incoming one, or learned from other events."""
        for number, teacher in enumerate(self._opened()):
            _check_alike(checkpoint, teacher, f"teachers[{number}]")

    def hashes(self) -> list[str]:
        """The content hashes of the checkpoints at `teachers`."""
        return [teacher.content_hash for teacher in self._opened()]

    def apply(self, checkpoint: Checkpoint, workshop: Workshop, folder: Path | None) -> Checkpoint:
        """Let the teachers answer, then train. The lessons are kept in `folder` until the student has learned."""
        config = self.rewritten(checkpoint.config, len(checkpoint.catalog))
        self.meet(checkpoint)
        dataset, panel = workshop.dataset_of(checkpoint), self._panel(checkpoint)
        with _scratch(folder) as scratch:
            device = workshop.machine.prepare()
            lessons: Lessons = (
                panel.lists(self.top, dataset, scratch / "lessons", device)
                if self.top
                else panel.vectors(dataset, scratch / "lessons", device)
            )
            workshop.machine.prepare()  # seeded alike, whether the lessons were there or not
            network = build(config, len(checkpoint.catalog))
            if self.start == "incoming":
                network.load_state_dict(checkpoint.parameters)
            else:
                prepare_table(network, dataset, workshop.machine.seed)
            taught = self._taught(lessons, [checkpoint, *panel.teachers], dataset, device)
            training = None if folder is None else scratch / "training"
            made = self._trained(network, config, taught, workshop, training)
            shutil.rmtree(scratch / "lessons")
        return measured(replace(checkpoint, config=config, parameters=made, metrics={}), workshop)

    def _trained(
        self, network: nn.Module, config: ModelConfig, taught: Taught, workshop: Workshop, folder: Path | None
    ) -> dict[str, Tensor]:
        train = msgspec.structs.replace(self.train, repeats=workshop.repeats)
        network = network.to(workshop.machine.device)
        if self.start == "incoming":
            keep_zeros(network)
        length = max_length(config)
        trainer = Trainer(network, workshop.dataset, length, train, workshop.machine, objective=taught)
        result = trainer.run(folder, workshop.journal, resume=folder is not None)
        return {name: value.cpu() for name, value in result.parameters.items()}

    def _taught(self, lessons: Lessons, read: list[Checkpoint], dataset: Dataset, device: torch.device) -> Taught:
        """`read`: the checkpoints that decide the course of the training."""
        told = msgspec.json.encode([self, [checkpoint.content_hash for checkpoint in read]])
        loss, sampler = self.train.loss, None
        if isinstance(loss, SampledSoftmax):
            sampler = CatalogSampler(dataset.popularity, loss.negatives, device=device)
        blend = Blend(self.alpha, self.temperature)
        return Taught(lessons, blend, hashlib.sha256(told).hexdigest(), sampler)

    def _panel(self, checkpoint: Checkpoint) -> Panel:
        teachers = [checkpoint, *self._opened()] if self.incoming_teaches else self._opened()
        weights = self.weights or (1.0,) * len(teachers)
        return Panel(teachers, [weight / sum(weights) for weight in weights], self.temperature)

    def _opened(self) -> list[Checkpoint]:
        opened = []
        for number, path in enumerate(self.teachers):
            try:
                teacher = Checkpoint.load(Path(path))
            except ArtifactError as error:
                raise ConfigError(f"teachers[{number}]: {error.problem}", "name the folder of a checkpoint") from error
            _check_teacher(teacher.config, f"teachers[{number}]")
            opened.append(teacher)
        return opened


@contextlib.contextmanager
def _scratch(folder: Path | None) -> Iterator[Path]:
    """Where lessons and progress are kept: `folder`, or one that is gone afterwards."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="millirec-") as made:
        yield Path(made)


def _kind(config: ModelConfig) -> str:
    return str(config.__struct_config__.tag)


def _check_student(config: ModelConfig, train: TrainConfig) -> None:
    network = build(config, 1)
    if not isinstance(network, SequenceModel) or not isinstance(config, NetworkConfig):
        raise ConfigError(f"student: a model of kind {_kind(config)!r} is not trained by gradient", "choose a network")
    if isinstance(network, Masked):
        raise ConfigError(
            f"student: {_kind(config)} learns to fill gaps, and teachers say what comes next",
            "choose a student that reads forward, such as linear-recurrent or sasrec",
        )
    check_trainable(config, train, at="", name="student")


def _check_teacher(config: ModelConfig, who: str) -> None:
    if not isinstance(build(config, 1), SequenceModel):
        raise ConfigError(
            f"{who} of kind {_kind(config)!r} gives no logits to learn from", "choose networks as teachers"
        )


def _check_same(incoming: ModelConfig, student: ModelConfig) -> None:
    old, own = msgspec.to_builtins(incoming), msgspec.to_builtins(student)
    for name in ("kind", *own):
        if name not in _FREE and own[name] != old.get(name):
            raise ConfigError(
                f"start = 'incoming', but student.{name} = {own[name]!r} and the incoming model has {old.get(name)!r}",
                "make them equal, or set start = 'fresh'",
            )


def _check_alike(checkpoint: Checkpoint, teacher: Checkpoint, who: str) -> None:
    ours, theirs = checkpoint.catalog.vocabulary.ids, teacher.catalog.vocabulary.ids
    if ours != theirs:
        row = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
        )
        found = [repr(ids[row]) if row < len(ids) else "nothing" for ids in (theirs, ours)]
        raise ConfigError(
            f"{who} knows other items: row {row + 1} is {found[0]} there and {found[1]} in the incoming model",
            "use teachers that were trained on the same data",
        )
    for what in ("fingerprint", "protocol"):
        own, other = getattr(checkpoint.provenance, what), getattr(teacher.provenance, what)
        if own != other:
            raise ConfigError(
                f"{who} has learned from other events, which may be held out here: {what} {other} instead of {own}",
                "use teachers that were trained on the same data and split",
            )
