"""`RankerRecipe`: steps in a row. `RankerStep`, the union of the steps, is the registry."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from millirec import __version__
from millirec.compress.rankers.base import RankerWorkshop
from millirec.compress.rankers.distil import DistilRanker
from millirec.compress.rankers.inputs import LeaveOut
from millirec.compress.rankers.prune import PruneRanker
from millirec.compress.rankers.quantize import QuantizeRanker
from millirec.compress.rankers.values import CapValues
from millirec.data.errors import ConfigError
from millirec.data.features import RowSplit, Schema
from millirec.data.labels import labels_of
from millirec.data.lineage import Step
from millirec.data.sources import SourceConfig
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.models.rankers.config import RankerConfig
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


def check(steps: Sequence[RankerStep], config: RankerConfig, schema: Schema) -> RankerConfig:
    """The config that comes out at the end, found without data. Raises ConfigError when a step cannot follow.

    That a feature is gone already, only the step that names it can tell.
    """
    for number, step in enumerate(steps):
        try:
            config = step.rewritten(config, schema)
        except ConfigError as error:
            raise ConfigError(f"$.steps[{number}]: {error.problem}", error.mend) from error
    return config


def compress_ranker(checkpoint: RankerCheckpoint, recipe: RankerRecipe, workshop: RankerWorkshop) -> RankerCheckpoint:
    """Apply every step. With `workshop.folder` each result is kept there under its key and taken up from there.

    Raises ConfigError before anything is done when a step cannot follow the one before it.
    """
    check(recipe.steps, checkpoint.config, checkpoint.featuriser.schema())
    for step, folder in zip(recipe.steps, _folders(checkpoint, recipe, workshop), strict=True):
        if folder is not None and folder.exists():
            checkpoint = RankerCheckpoint.load(folder)
            continue
        began = time.monotonic()
        made = step.apply(checkpoint, workshop)
        told = {"name": str(step.__struct_config__.tag), "settings": msgspec.to_builtins(step)}
        lineage = (*checkpoint.lineage, Step(**told, seconds=time.monotonic() - began))
        checkpoint = replace(made, lineage=lineage)
        if folder is not None:
            checkpoint.save(folder)
    return checkpoint


def _folders(checkpoint: RankerCheckpoint, recipe: RankerRecipe, workshop: RankerWorkshop) -> Iterator[Path | None]:
    """A folder for the result of each step, named by the hash of all that decides it, the version included."""
    if workshop.folder is None:
        yield from [None] * len(recipe.steps)
        return
    dataset, retrieval = workshop.dataset, workshop.retrieval
    digest = hashlib.sha256(labels_of(dataset, checkpoint.label).tobytes())
    asked = None if retrieval is None else retrieval.content_hash
    about = [__version__, checkpoint.content_hash, checkpoint.label, checkpoint.lineage, asked]
    digest.update(msgspec.json.encode([*about, dataset.split_fingerprint, workshop.machine.seed]))
    for step in recipe.steps:
        digest.update(msgspec.json.encode(step))
        yield workshop.folder / digest.hexdigest()[:16]
