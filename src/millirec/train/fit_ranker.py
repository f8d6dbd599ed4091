"""`fit_ranker`: a split log, features and two configs become a ranker."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
from torch import Tensor, nn

from millirec.data.dataset import VALIDATION, Dataset
from millirec.data.errors import ConfigError
from millirec.data.features import Featuriser, FieldConfig, RankingRows, ranking_rows, with_tasks
from millirec.data.labels import LabelConfig, labels_of, tasks_of
from millirec.data.lineage import Provenance, Step
from millirec.metrics import ctr
from millirec.models.checkpoint import Checkpoint
from millirec.models.rankers.calibration import Calibration
from millirec.models.rankers.checkpoint import RankerCheckpoint, logits_of
from millirec.models.rankers.config import RankerConfig, build_ranker
from millirec.models.rankers.trees import Trees
from millirec.train.calibrate import Method, calibrated
from millirec.train.candidates import CandidateConfig, candidate_rows, found_for
from millirec.train.fit import provenance_of
from millirec.train.grow import grow
from millirec.train.journal import Journal
from millirec.train.machine import Machine
from millirec.train.rank_config import RankTrainConfig
from millirec.train.rank_loss import Lesson
from millirec.train.rank_trainer import RankTrainer


class RankerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a success is, what is known of a row, which ranker learns it, and how.

    `candidates`: which rows are made where a retrieval is asked for them.
    """

    label: LabelConfig
    features: tuple[FieldConfig, ...]
    ranker: RankerConfig
    train: RankTrainConfig = RankTrainConfig()
    machine: Machine = Machine()
    candidates: CandidateConfig = CandidateConfig()


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained, who is told, and what a teacher says of the rows. `progress`: the folder of a resumable
    state, which `resume` takes up; trees have none.
    """

    train: RankTrainConfig
    machine: Machine
    journal: Journal
    lesson: Lesson | None = None
    progress: Path | None = None
    resume: bool = False


def fit_ranker(
    dataset: Dataset,
    plan: RankerPlan,
    journal: Journal,
    *,
    retrieval: Checkpoint | None = None,
    progress: Path | None = None,
    resume: bool = False,
) -> tuple[RankerCheckpoint, RankingRows]:
    """Learn features and network from the training rows; the validation rows decide when to stop, and calibrate.

    `dataset` has been split by `split_rows`, or as that of the `retrieval` was whose candidates become the rows.
    `progress` is the folder of a resumable state; trees start anew. The caller adds to the provenance the settings that
    read the data again.
    """
    if retrieval is None:
        rows, featuriser = ranking_rows(dataset, labels_of(dataset, plan.label), plan.features)
        rows = with_tasks(rows, tasks_of(dataset, plan.label))
        what = RankerRows(rows, featuriser, plan.label, provenance_of(dataset))
    else:
        found = found_for(retrieval, dataset, plan.candidates, test=True)
        rows, featuriser = candidate_rows(dataset, plan.label, found, plan.features, plan.candidates)
        asked = plan.candidates, retrieval.content_hash
        what = RankerRows(rows, featuriser, plan.label, provenance_of(dataset), *asked)
    how = Training(train=plan.train, machine=plan.machine, journal=journal, progress=progress, resume=resume)
    return fit_rows(what, plan.ranker, how), rows


class RankerRows(NamedTuple):
    """Rows to learn from, however they were made, and what they were made of.

    `candidates`: how `candidate_rows` made them; None = they are rows of the log. It goes into the lineage, so that
    what compresses the ranker learns from such rows too; so does `retrieval`, the content hash of the model asked.
    """

    rows: RankingRows
    featuriser: Featuriser
    label: LabelConfig
    provenance: Provenance
    candidates: CandidateConfig | None = None
    retrieval: str | None = None


def fit_rows(what: RankerRows, ranker: RankerConfig, how: Training) -> RankerCheckpoint:
    """A ranker of these rows: their roles say which are learned from, and which decide when to stop and calibrate."""
    rows, featuriser = what.rows, what.featuriser
    how.machine.prepare()
    network = build_ranker(ranker, featuriser.schema())
    found = learned(network, rows, how)
    network.load_state_dict(found.parameters)
    calibration, metrics = settled(network, rows, how.train.calibration)
    settings = msgspec.to_builtins(how.train) | {"seed": how.machine.seed, "device": how.machine.device}
    if what.candidates is not None:
        settings["candidates"] = msgspec.to_builtins(what.candidates)
    if what.retrieval is not None:
        settings["retrieval"] = what.retrieval
    return RankerCheckpoint(
        config=ranker,
        parameters={name: value.cpu() for name, value in found.parameters.items()},
        featuriser=featuriser,
        label=what.label,
        provenance=what.provenance,
        calibration=calibration,
        lineage=(Step(name="train", settings=settings, seconds=found.seconds),),
        metrics=metrics | found.figures,
    )


def settled(network: nn.Module, rows: RankingRows, method: Method) -> tuple[Calibration, dict[str, float]]:
    """The calibration that fits the validation rows, and `auc` and `log_loss` there."""
    part = rows.part(VALIDATION)
    logits, labels = logits_of(network.eval(), rows.features.take(part)), rows.labels[part]
    calibration = calibrated(method, logits, labels)
    return calibration, {"auc": ctr.auc(labels, logits), "log_loss": ctr.log_loss(labels, calibration.chances(logits))}


def training_of(checkpoint: RankerCheckpoint) -> RankTrainConfig:
    """How it was trained, from its lineage. Raises ConfigError when that does not tell."""
    for step in reversed(checkpoint.lineage):
        if step.name == "train":
            own = {name: value for name, value in step.settings.items() if name in RankTrainConfig.__struct_fields__}
            return msgspec.convert(own, RankTrainConfig)
    raise ConfigError("the ranker does not say how it was trained", "give `train`")


@dataclass(frozen=True, kw_only=True)
class Learned:
    """The best parameters, what they took (seconds), and how it went."""

    parameters: dict[str, Tensor]
    seconds: float
    figures: dict[str, float]


def learned(network: nn.Module, rows: RankingRows, how: Training) -> Learned:
    """Train a network, or grow trees; `network` itself is changed by it."""
    if isinstance(network, Trees):
        began = time.monotonic()
        parameters, grown = grow(network, rows, how.train, how.machine, how.journal)
        figures = {"trees": float(len(parameters["leaves"])), "grown": float(grown)}
        return Learned(parameters=parameters, seconds=time.monotonic() - began, figures=figures)
    trainer = RankTrainer(network, rows, how.train, how.machine, how.lesson)
    parameters, course = trainer.run(how.progress, how.journal, resume=how.resume)
    figures = {"best_epoch": float(course.best_epoch), "epochs": float(len(course.history))}
    return Learned(parameters=parameters, seconds=course.seconds, figures=figures)
