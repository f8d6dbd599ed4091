"""`RankerRecipe`: steps in a row. `RankerStep`, the union of the steps, is the registry."""

import time
from dataclasses import replace

import msgspec

from millirec.compress.rankers.base import RankerWorkshop
from millirec.compress.rankers.distil import DistilRanker
from millirec.compress.rankers.inputs import LeaveOut
from millirec.compress.rankers.prune import PruneRanker
from millirec.compress.rankers.quantize import QuantizeRanker
from millirec.compress.rankers.values import CapValues
from millirec.data.errors import ConfigError
from millirec.data.features import RowSplit
from millirec.data.lineage import Step
from millirec.data.sources import SourceConfig
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.train.machine import Machine

RankerStep = LeaveOut | CapValues | DistilRanker | PruneRanker | QuantizeRanker


class RankerRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is done to a ranker, in order, and the machine that does it. `data`, `split` as in `CompressConfig`."""

    steps: tuple[RankerStep, ...]
    name: str = "recipe"
    data: SourceConfig | None = None
    split: RowSplit | None = None
    machine: Machine = Machine()

    def __post_init__(self) -> None:
        if not self.steps:
            raise ConfigError("$.steps is empty", 'name at least one, such as {"kind": "quantize"}')


def compress_ranker(checkpoint: RankerCheckpoint, recipe: RankerRecipe, workshop: RankerWorkshop) -> RankerCheckpoint:
    """Apply every step. Raises ConfigError before anything is done when a step cannot follow the one before it.

    That a feature is gone already, only the step that names it can tell.
    """
    config, schema = checkpoint.config, checkpoint.featuriser.schema()
    for number, step in enumerate(recipe.steps):
        try:
            config = step.rewritten(config, schema)
        except ConfigError as error:
            raise ConfigError(f"$.steps[{number}]: {error.problem}", error.mend) from error
    for step in recipe.steps:
        began = time.monotonic()
        made = step.apply(checkpoint, workshop)
        told = {"name": str(step.__struct_config__.tag), "settings": msgspec.to_builtins(step)}
        lineage = (*checkpoint.lineage, Step(**told, seconds=time.monotonic() - began))
        checkpoint = replace(made, lineage=lineage)
    return checkpoint
