"""Evaluation of a feature ranker on held-out rows."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.dataset import TEST, TRAIN, Dataset
from millirec.data.errors import ArtifactError, ConfigError, DataError
from millirec.data.features import RankingRows, ranking_rows, with_tasks
from millirec.data.labels import MAIN, UNLABELLED, labels_of, tasks_of
from millirec.metrics import ctr
from millirec.metrics.ctr_summary import auc_interval, summarise_chances
from millirec.metrics.summary import Figure
from millirec.models.base import MultiTask
from millirec.models.checkpoint import Checkpoint
from millirec.models.rankers.calibration import Sigmoid
from millirec.models.rankers.checkpoint import RankerCheckpoint, logits_of, task_logits_of
from millirec.train.candidates import candidate_rows, candidates_of, found_for

ASK = "give -c run.toml that names the checkpoint of $.retrieval"


class RankerEvaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one ranker on one part. `uncalibrated`: of the sigmoid of its logits.

    `base_rate`: the share of successes among these rows; `constant_log_loss`: of the training rows' share as the only
    answer, the figure to beat. `tasks`: for each further outcome, and for the label where the ranker learns several,
    `served_auc` of the score that is served, and `auc` and `log_loss` of the ranker's own logit for it.
    """

    protocol: str
    n_rows: int
    n_users: int
    base_rate: float
    constant_log_loss: float
    figures: dict[str, Figure]
    uncalibrated: dict[str, float]
    tasks: dict[str, dict[str, Figure]] = {}


def rows_of(
    checkpoint: RankerCheckpoint, dataset: Dataset, retrieval: Checkpoint | None = None, *, test: bool = True
) -> RankingRows:
    """The rows of a ranker: those of a log that `split_rows` has split, or what `retrieval` finds in the data.

    `test`: candidates of the test part as well.
    Raises ArtifactError when the data has other users or items than those that the ranker was trained on, ConfigError
    for a ranker of candidates without a model to ask.
    """
    for kind in ("users", "items"):
        if getattr(dataset, kind).vocabulary.ids != getattr(checkpoint.featuriser, kind).vocabulary.ids:
            raise ArtifactError(f"the data has other {kind} than the ranker knows", "give the data it was trained on")
    candidates = candidates_of(checkpoint)
    if candidates is None:
        rows, _ = ranking_rows(dataset, labels_of(dataset, checkpoint.label), checkpoint.featuriser)
        return with_tasks(rows, tasks_of(dataset, checkpoint.label))
    if retrieval is None:
        raise ConfigError("the ranker has learned from what a retrieval found, and no model is here to ask", ASK)
    found = found_for(retrieval, dataset, candidates, test=test)
    return candidate_rows(dataset, checkpoint.label, found, checkpoint.featuriser, candidates)[0]


def evaluate_rows(checkpoint: RankerCheckpoint, rows: RankingRows, protocol: str, role: int = TEST) -> RankerEvaluation:
    """All figures on one part of the rows of a ranker."""
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
        tasks=_by_task(checkpoint, rows, part, logits),
    )


def _by_task(
    checkpoint: RankerCheckpoint, rows: RankingRows, part: NDArray[np.int64], served: NDArray[np.float64]
) -> dict[str, dict[str, Figure]]:
    network = checkpoint.network()
    learned = network.tasks if isinstance(network, MultiTask) else ()
    own = task_logits_of(network, rows.features.take(part)) if isinstance(network, MultiTask) else served[:, None]
    out = {}
    for name in dict.fromkeys((*learned, *rows.tasks)):
        labels = (rows.labels if name == MAIN else rows.tasks[name])[part]
        known = labels != UNLABELLED
        if len(np.unique(labels[known])) < 2:
            raise DataError(f"the rows of this part have not both labels of {name}", "measure another part")
        labels, users = labels[known], rows.users[part][known]
        figure = ctr.auc(labels, served[known])
        out[name] = {"served_auc": Figure(figure, *auc_interval(labels, served[known], users))}
        if name in learned:
            chances = Sigmoid().chances(own[known, learned.index(name)])
            figures = summarise_chances(labels, chances, users)
            out[name] |= {kind: figures[kind] for kind in ("auc", "log_loss")}
    return out
