"""`fit_ranker`: a split log, features and two configs become a ranker."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from millirec.data.dataset import Dataset
from millirec.data.features import Featuriser, FieldConfig, RankingRows, ranking_rows
from millirec.data.labels import LabelConfig, labels_of
from millirec.data.lineage import Provenance, Step
from millirec.metrics import ctr
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.models.rankers.config import RankerConfig, build_ranker
from millirec.train.calibrate import calibrated
from millirec.train.fit import provenance_of
from millirec.train.journal import Journal
from millirec.train.machine import Machine
from millirec.train.rank_config import RankTrainConfig
from millirec.train.rank_trainer import RankTrainer


def fit_ranker(
    dataset: Dataset,
    label: LabelConfig,
    fields: Iterable[FieldConfig],
    ranker: RankerConfig,
    train: RankTrainConfig,
    machine: Machine,
    journal: Journal,
    *,
    progress: Path | None = None,
    resume: bool = False,
) -> tuple[RankerCheckpoint, RankingRows]:
    """Learn features and network from the training rows; the validation rows decide when to stop, and calibrate.

    `dataset` has been split by `split_rows`. The caller adds to the provenance the settings that read the data again.
    """
    rows, featuriser = ranking_rows(dataset, labels_of(dataset, label), fields)
    what = RankerRows(rows, featuriser, label, provenance_of(dataset))
    return fit_rows(what, ranker, train, machine, journal, progress=progress, resume=resume), rows


class RankerRows(NamedTuple):
    """Rows to learn from, however they were made, and what they were made of."""

    rows: RankingRows
    featuriser: Featuriser
    label: LabelConfig
    provenance: Provenance


def fit_rows(
    what: RankerRows,
    ranker: RankerConfig,
    train: RankTrainConfig,
    machine: Machine,
    journal: Journal,
    *,
    progress: Path | None = None,
    resume: bool = False,
) -> RankerCheckpoint:
    """A ranker of these rows: their roles say which are learned from, and which decide when to stop and calibrate."""
    rows, featuriser = what.rows, what.featuriser
    machine.prepare()
    network = build_ranker(ranker, featuriser.schema())
    trainer = RankTrainer(network, rows, train, machine)
    parameters, course = trainer.run(progress, journal, resume=resume)
    trainer.network.load_state_dict(parameters)
    logits, truth = trainer.validation_logits(), rows.labels[trainer.validation]
    calibration = calibrated(train.calibration, logits, truth)
    metrics = {"auc": ctr.auc(truth, logits), "log_loss": ctr.log_loss(truth, calibration.chances(logits))}
    metrics |= {"best_epoch": float(course.best_epoch), "epochs": float(len(course.history))}
    settings = msgspec.to_builtins(train) | {"seed": machine.seed, "device": machine.device}
    return RankerCheckpoint(
        config=ranker,
        parameters={name: value.cpu() for name, value in parameters.items()},
        featuriser=featuriser,
        label=what.label,
        provenance=what.provenance,
        calibration=calibration,
        lineage=(Step(name="train", settings=settings, seconds=course.seconds),),
        metrics=metrics,
    )
