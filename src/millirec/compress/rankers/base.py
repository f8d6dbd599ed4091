"""The protocol of a step, what it may use, and how a ranker learns on."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

from torch import nn

from millirec.compress.sparsity import keep_zeros
from millirec.data.dataset import Dataset
from millirec.data.errors import ConfigError
from millirec.data.features import RankingRows, Schema, ranking_rows, with_tasks
from millirec.data.labels import labels_of, tasks_of
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.models.rankers.config import RankerConfig
from millirec.models.rankers.trees import TreesConfig
from millirec.train.fit_ranker import Training, learned, settled
from millirec.train.journal import Journal, Silent
from millirec.train.machine import Machine
from millirec.train.rank_config import RankTrainConfig
from millirec.train.rank_loss import Lesson


@dataclass(frozen=True)
class RankerWorkshop:
    """The split data, which is read once and only if a step needs it; the machine; who is told of progress."""

    read: Callable[[], Dataset] | None = None
    machine: Machine = field(default_factory=Machine)
    journal: Journal = field(default_factory=Silent)

    @cached_property
    def dataset(self) -> Dataset:
        """Split by rows. Raises ConfigError when none was given."""
        if self.read is None:
            raise ConfigError("this step needs data", "give the log, or use a ranker that names its source")
        return self.read()

    def rows(self, checkpoint: RankerCheckpoint) -> RankingRows:
        """All labelled rows, as the ranker's features show them."""
        dataset = self.dataset
        rows, _ = ranking_rows(dataset, labels_of(dataset, checkpoint.label), checkpoint.featuriser)
        return with_tasks(rows, tasks_of(dataset, checkpoint.label))


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
