"""The protocol of a compression step."""

from pathlib import Path
from typing import Protocol

from millirec.compress.workshop import Workshop
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig


class Compression(Protocol):
    """A step's config, which is also the step: it says what comes out before it does anything."""

    @property
    def needs_data(self) -> bool:
        """Whether `apply` reads the workshop's data set."""

    def rewritten(self, config: ModelConfig, n_items: int) -> ModelConfig:
        """The config of what comes out. Raises ConfigError, with field and mend, when the step cannot follow."""

    def apply(self, checkpoint: Checkpoint, workshop: Workshop, folder: Path | None) -> Checkpoint:
        """The compressed checkpoint; the recipe writes the lineage.

        A long step keeps a resumable state in `folder` and takes it up when it is there.
        """
