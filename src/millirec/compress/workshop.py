"""`Workshop`: what a step may use besides the checkpoint and its own config."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from millirec.data.dataset import Dataset
from millirec.data.errors import ConfigError
from millirec.models.checkpoint import Checkpoint
from millirec.train.journal import Journal, Silent
from millirec.train.machine import Machine


@dataclass(frozen=True)
class Workshop:
    """The data, the machine, who is told of progress, and where a resumable state is kept.

    `read` gives the split data set; it is called once, and only if a step needs data. `folder`: None = a killed step
    starts anew. `repeats`: items already seen may be asked for again, as in sessions.
    """

    read: Callable[[], Dataset] | None = None
    machine: Machine = field(default_factory=Machine)
    journal: Journal = field(default_factory=Silent)
    folder: Path | None = None
    repeats: bool = False

    @cached_property
    def dataset(self) -> Dataset:
        """The split data set. Raises ConfigError when none was given."""
        if self.read is None:
            raise ConfigError("this step needs data", "give the log, or use a checkpoint that names its source")
        return self.read()

    def dataset_of(self, checkpoint: Checkpoint) -> Dataset:
        """The data set. Raises ConfigError also when its items are not those of the checkpoint."""
        dataset = self.dataset
        if dataset.items.vocabulary.ids != checkpoint.catalog.vocabulary.ids:
            raise ConfigError(
                f"data with {len(dataset.items):,} items do not fit the checkpoint's vocabulary of "
                f"{len(checkpoint.catalog):,}",
                "give the data that the checkpoint was trained on",
            )
        return dataset
