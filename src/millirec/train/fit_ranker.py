"""`fit_ranker`: a split log, features and two configs become a ranker."""

import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from millirec.data.dataset import VALIDATION, Dataset
from millirec.data.features import FieldConfig, RankingRows, ranking_rows, with_tasks
from millirec.data.labels import LabelConfig, labels_of, tasks_of
from millirec.data.lineage import Step
from millirec.metrics import ctr
from millirec.models.rankers.checkpoint import RankerCheckpoint, logits_of
from millirec.models.rankers.config import RankerConfig, build_ranker
from millirec.models.rankers.trees import Trees
from millirec.train.calibrate import calibrated
from millirec.train.fit import provenance_of
from millirec.train.grow import grow
from millirec.train.journal import Journal
from millirec.train.machine import Machine
from millirec.train.rank_config import RankTrainConfig
from millirec.train.rank_trainer import RankTrainer


class RankerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a success is, what is known of a row, which ranker learns it, and how."""

    label: LabelConfig
    features: tuple[FieldConfig, ...]
    ranker: RankerConfig
    train: RankTrainConfig = RankTrainConfig()
    machine: Machine = Machine()


def fit_ranker(
    dataset: Dataset, plan: RankerPlan, journal: Journal, *, progress: Path | None = None, resume: bool = False
) -> tuple[RankerCheckpoint, RankingRows]:
    """Learn features and network from the training rows; the validation rows decide when to stop, and calibrate.

    `dataset` has been split by `split_rows`. `progress` is the folder of a resumable state; trees start anew. The
    caller adds to the provenance the settings that read the data again.
    """
    rows, featuriser = ranking_rows(dataset, labels_of(dataset, plan.label), plan.features)
    rows = with_tasks(rows, tasks_of(dataset, plan.label))
    plan.machine.prepare()
    network = build_ranker(plan.ranker, featuriser.schema())
    learned = _learned(network, rows, plan, journal, progress, resume=resume)
    network.load_state_dict(learned.parameters)
    logits, labels = validation_logits(network, rows)
    calibration = calibrated(plan.train.calibration, logits, labels)
    metrics = {"auc": ctr.auc(labels, logits), "log_loss": ctr.log_loss(labels, calibration.chances(logits))}
    settings = msgspec.to_builtins(plan.train) | {"seed": plan.machine.seed, "device": plan.machine.device}
    checkpoint = RankerCheckpoint(
        config=plan.ranker,
        parameters={name: value.cpu() for name, value in learned.parameters.items()},
        featuriser=featuriser,
        label=plan.label,
        provenance=provenance_of(dataset),
        calibration=calibration,
        lineage=(Step(name="train", settings=settings, seconds=learned.seconds),),
        metrics=metrics | learned.figures,
    )
    return checkpoint, rows


def validation_logits(network: nn.Module, rows: RankingRows) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """What a network says of the validation rows, and what was true, (n,) each."""
    part = rows.part(VALIDATION)
    return logits_of(network.eval(), rows.features.take(part)), rows.labels[part]


@dataclass(frozen=True, kw_only=True)
class _Learned:
    """The best parameters, what it took (seconds), and how it went."""

    parameters: dict[str, Tensor]
    seconds: float
    figures: dict[str, float]


def _learned(
    network: nn.Module, rows: RankingRows, plan: RankerPlan, journal: Journal, progress: Path | None, *, resume: bool
) -> _Learned:
    if isinstance(network, Trees):
        began = time.monotonic()
        parameters, grown = grow(network, rows, plan.train, plan.machine, journal)
        figures = {"trees": float(len(parameters["leaves"])), "grown": float(grown)}
        return _Learned(parameters=parameters, seconds=time.monotonic() - began, figures=figures)
    parameters, course = RankTrainer(network, rows, plan.train, plan.machine).run(progress, journal, resume=resume)
    figures = {"best_epoch": float(course.best_epoch), "epochs": float(len(course.history))}
    return _Learned(parameters=parameters, seconds=course.seconds, figures=figures)
