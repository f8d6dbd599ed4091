"""`Recipe`: compression steps in a row. `StepConfig`, the union of the steps, is the registry."""

import hashlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from millirec import __version__
from millirec.compress.anew import Train
from millirec.compress.distil import Distil
from millirec.compress.factorise import Factorise
from millirec.compress.hashing import Hash
from millirec.compress.product import JointProduct, ProductQuantize
from millirec.compress.prune import Prune
from millirec.compress.quantize import Quantize
from millirec.compress.structure import PruneStructure
from millirec.compress.tiers import Tier
from millirec.compress.workshop import Workshop
from millirec.data.errors import ConfigError
from millirec.data.lineage import Step
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig

StepConfig = (
    Quantize | Prune | PruneStructure | ProductQuantize | JointProduct | Factorise | Hash | Tier | Distil | Train
)


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is done to a checkpoint, in order. `name` stands in reports."""

    steps: tuple[StepConfig, ...]
    name: str = "recipe"

    def __post_init__(self) -> None:
        if not self.steps:
            raise ConfigError("$.steps is empty", 'name at least one, such as {"kind": "quantize"}')


def check(recipe: Recipe, config: ModelConfig, n_items: int) -> ModelConfig:
    """The config that comes out at the end, found without data. Raises ConfigError when a step cannot follow."""
    for number, step in enumerate(recipe.steps):
        try:
            config = step.rewritten(config, n_items)
        except ConfigError as error:
            raise ConfigError(f"$.steps[{number}]: {error.problem}", error.mend) from error
    return config


def compress(checkpoint: Checkpoint, recipe: Recipe, workshop: Workshop) -> Checkpoint:
    """Apply every step. With `workshop.folder` each result is kept there under its key and taken up from there.

    Raises ConfigError before anything is done when a step cannot follow the one before it.
    """
    check(recipe, checkpoint.config, len(checkpoint.catalog))
    _check_teachers(recipe, checkpoint)
    for step, folder in zip(recipe.steps, _folders(checkpoint, recipe, workshop), strict=True):
        done = None if folder is None else folder / "checkpoint"
        if done is not None and done.exists():
            checkpoint = Checkpoint.load(done)
            continue
        checkpoint = _applied(step, checkpoint, workshop, None if folder is None else folder / "progress")
        if folder is not None:
            checkpoint.save(folder / "checkpoint")
            shutil.rmtree(folder / "progress", ignore_errors=True)  # it has served
    return checkpoint


def _check_teachers(recipe: Recipe, checkpoint: Checkpoint) -> None:
    for number, step in enumerate(recipe.steps):
        if isinstance(step, Distil):
            try:
                step.meet(checkpoint)
            except ConfigError as error:
                raise ConfigError(f"$.steps[{number}]: {error.problem}", error.mend) from error


def _applied(step: StepConfig, checkpoint: Checkpoint, workshop: Workshop, folder: Path | None) -> Checkpoint:
    began = time.monotonic()
    settings = msgspec.to_builtins(step)
    if isinstance(step, Distil):  # paths say little elsewhere, or later
        settings["taught_by"] = [checkpoint.content_hash] * step.incoming_teaches + step.hashes()
    made = step.apply(checkpoint, workshop, folder)
    told = Step(name=str(step.__struct_config__.tag), settings=settings, seconds=time.monotonic() - began)
    return replace(made, lineage=(*checkpoint.lineage, told))


def _folders(checkpoint: Checkpoint, recipe: Recipe, workshop: Workshop) -> Iterator[Path | None]:
    """A folder for the result of each step, named by the hash of all that decides it, the version included."""
    digest = hashlib.sha256(f"{__version__} {checkpoint.content_hash}".encode())
    for step in recipe.steps:
        digest.update(msgspec.json.encode([step, workshop.repeats]))
        if isinstance(step, Distil):
            digest.update(" ".join(step.hashes()).encode())
        if step.needs_data and workshop.folder is not None:
            dataset = workshop.dataset
            digest.update(f"{dataset.split_fingerprint} {workshop.machine.seed}".encode())
        yield None if workshop.folder is None else workshop.folder / digest.hexdigest()[:16]
