"""The protocol of a step, what it may use, and how a ranker learns on."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from torch import nn

from millirec.compress.sparsity import keep_zeros
from millirec.data.dataset import Dataset
from millirec.data.errors import ConfigError
from millirec.data.features import Featuriser, RankingRows, Schema
from millirec.models.checkpoint import Checkpoint
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.models.rankers.config import RankerConfig
from millirec.models.rankers.trees import TreesConfig
from millirec.train.candidates import candidates_of
from millirec.train.evaluate_ranker import rows_of
from millirec.train.fit_ranker import Training, learned, settled
from millirec.train.journal import Journal, Silent
from millirec.train.machine import Machine
from millirec.train.rank_config import RankTrainConfig
from millirec.train.rank_loss import Lesson


@dataclass(frozen=True)
class RankerWorkshop:
    """The split data, which is read once and only if a step needs it; the machine; who is told of progress.

    `retrieval`: the model that is asked for candidates where a ranker has learned from such. `folder`: where the result
    of each step is kept; None = nowhere.
    """

    read: Callable[[], Dataset] | None = None
    machine: Machine = field(default_factory=Machine)
    journal: Journal = field(default_factory=Silent)
    retrieval: Checkpoint | None = None
    folder: Path | None = None
    _last: list[tuple[Featuriser, RankingRows]] = field(default_factory=list, init=False, repr=False)

    @cached_property
    def dataset(self) -> Dataset:
        """Split as the ranker's was. Raises ConfigError when none was given."""
        if self.read is None:
            raise ConfigError("this step needs data", "give the log, or use a ranker that names its source")
        return self.read()

    def rows(self, checkpoint: RankerCheckpoint) -> RankingRows:
        """The rows that the ranker learned from, made again, as its features show them now.

        Raises ConfigError for a ranker of candidates where there is no model to ask for them.
        """
        if not self._last or self._last[0][0] is not checkpoint.featuriser:  # most steps change no feature
            self._last[:] = [(checkpoint.featuriser, self._rows(checkpoint))]
        return self._last[0][1]

    def _rows(self, checkpoint: RankerCheckpoint) -> RankingRows:
        if candidates_of(checkpoint) is not None and self.retrieval is None:
            raise ConfigError(
                "the ranker has learned from what a retrieval found, and no model is here to ask",
                "make it smaller as a variant of `millirec frontier`, whose teacher is asked",
            )
        return rows_of(checkpoint, self.dataset, self.retrieval, test=False)


class RankerCompression(Protocol):
    """A step's config, which is also the step."""

    @property
    def needs_data(self) -> bool:
        """Whether `apply` reads the rows of the log."""

    def rewritten(self, config: RankerConfig, schema: Schema) -> RankerConfig:
        """The config of what comes out. Raises ConfigError, with field and mend, when the step cannot follow."""

    def apply(self, checkpoint: RankerCheckpoint, workshop: RankerWorkshop) -> RankerCheckpoint:
        """The compressed ranker; the recipe writes the lineage."""


def recovered(
    checkpoint: RankerCheckpoint,
    network: nn.Module,
    train: RankTrainConfig,
    workshop: RankerWorkshop,
    lesson: Lesson | None = None,
) -> RankerCheckpoint:
    """What `network` has learned, going on from its weights; those that are zero stay so. Calibrated and measured anew.

    `network` fits config and features of `checkpoint`.
    """
    rows = workshop.rows(checkpoint)
    workshop.machine.prepare()
    keep_zeros(network)
    how = Training(train=train, machine=workshop.machine, journal=workshop.journal, lesson=lesson)
    found = learned(network, rows, how)
    parameters = {name: value.cpu() for name, value in found.parameters.items()}
    return measured(replace(checkpoint, parameters=parameters), rows, train)


def measured(checkpoint: RankerCheckpoint, rows: RankingRows, train: RankTrainConfig) -> RankerCheckpoint:
    """Calibrated anew as `train` says, with the figures of the validation part."""
    calibration, metrics = settled(checkpoint.network(), rows, train.calibration)
    return replace(checkpoint, calibration=calibration, metrics=metrics)


def check_network(config: RankerConfig, what: str) -> None:
    """Raises ConfigError for trees, which have no weights."""
    if isinstance(config, TreesConfig):
        raise ConfigError(f"trees have no {what}", "distil them into a network first")
