"""`CompressConfig`: a recipe in a file of its own, and what it needs besides a checkpoint."""

from millirec.compress.recipe import Recipe
from millirec.data.sources import SourceConfig
from millirec.data.split import SplitConfig
from millirec.train.machine import Machine


class CompressConfig(Recipe, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recipe and the machine that follows it.

    `data`, `split`: where they are to differ from what the checkpoint says of itself, such as a log that was moved;
    the events and their parts must be the same.
    """

    data: SourceConfig | None = None
    split: SplitConfig | None = None
    machine: Machine = Machine()
