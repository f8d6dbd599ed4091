"""Evaluation of a feature ranker on held-out rows."""

import msgspec
import numpy as np

from millirec.data.dataset import TEST, TRAIN, Dataset
from millirec.data.errors import ArtifactError, DataError
from millirec.data.features import RankingRows, ranking_rows
from millirec.data.labels import labels_of
from millirec.metrics import ctr
from millirec.metrics.ctr_summary import summarise_chances
from millirec.metrics.summary import Figure
from millirec.models.rankers.calibration import Sigmoid
from millirec.models.rankers.checkpoint import RankerCheckpoint, logits_of


class RankerEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one ranker on one part. `uncalibrated`: of the sigmoid of its logits.

    `base_rate`: the share of successes among these rows; `constant_log_loss`: of the training rows' share as the only
    answer, the figure to beat.
    """

    protocol: str
    n_rows: int
    n_users: int
    base_rate: float
    constant_log_loss: float
    figures: dict[str, Figure]
    uncalibrated: dict[str, float]


def evaluate_ranker(checkpoint: RankerCheckpoint, dataset: Dataset, role: int = TEST) -> RankerEvaluation:
    """All figures on one part of a data set that `split_rows` has split.

    Raises ArtifactError when the data has other users or items than those that the ranker was trained on.
    """
    for kind in ("users", "items"):
        if getattr(dataset, kind).vocabulary.ids != getattr(checkpoint.featuriser, kind).vocabulary.ids:
            raise ArtifactError(f"the data has other {kind} than the ranker knows", "give the data it was trained on")
    rows, _ = ranking_rows(dataset, labels_of(dataset, checkpoint.label), checkpoint.featuriser)
    return evaluate_rows(checkpoint, rows, dataset.protocol, role)


def evaluate_rows(checkpoint: RankerCheckpoint, rows: RankingRows, protocol: str, role: int = TEST) -> RankerEvaluation:
    """`evaluate_ranker` on rows that are made already."""
    part = rows.part(role)
    if not len(part):
        raise DataError(f"no rows in this part under {protocol}", "measure another part")
    logits, labels = logits_of(checkpoint.network(), rows.features.take(part)), rows.labels[part]
    plain = Sigmoid().chances(logits)
    prior = float(rows.labels[rows.part(TRAIN)].mean())
    return RankerEvaluation(
        protocol=protocol,
        n_rows=len(part),
        n_users=len(np.unique(rows.users[part])),
        base_rate=float(labels.mean()),
        constant_log_loss=ctr.log_loss(labels, np.full(len(part), prior)),
        figures=summarise_chances(labels, checkpoint.calibration.chances(logits), rows.users[part]),
        uncalibrated={
            "log_loss": ctr.log_loss(labels, plain),
            "brier": ctr.brier(labels, plain),
            "calibration_error": ctr.calibration_error(labels, plain),
        },
    )
