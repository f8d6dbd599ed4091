"""`millirec compress` for feature rankers."""

from pathlib import Path
from typing import TYPE_CHECKING

from millirec.cli.console import TrainingBar, note, print_json, table
from millirec.cli.ranker import read_for_ranker, retrieval_of_ranker
from millirec.data.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from millirec.compress.rankers.report import RankerSize
    from millirec.models.rankers.checkpoint import RankerCheckpoint


def compress_ranker(checkpoint: Path, config: Path, output: Path, *, force: bool, json: bool) -> None:
    """Follow a recipe; writes a new ranker and tells what changed."""
    from millirec.compress.rankers.base import RankerWorkshop
    from millirec.compress.rankers.recipe import RankerRecipe
    from millirec.compress.rankers.recipe import compress_ranker as follow
    from millirec.compress.rankers.report import size_of
    from millirec.config import convert, read_toml
    from millirec.models.rankers.checkpoint import RankerCheckpoint

    recipe: RankerRecipe = convert(read_toml(config), RankerRecipe, str(config))
    recipe.machine.prepare()
    _check_output(output, checkpoint, force=force)
    before = RankerCheckpoint.load(checkpoint)
    with TrainingBar() as bar:
        workshop = RankerWorkshop(
            read=lambda: read_for_ranker(before, recipe.data, recipe.split),
            machine=recipe.machine,
            journal=bar,
            retrieval=retrieval_of_ranker(before, None) if any(step.needs_data for step in recipe.steps) else None,
        )
        made = follow(before, recipe, workshop)
    made.save(output)
    sizes = size_of(before), size_of(made)
    if json:
        metrics = {"metrics": made.metrics, "metrics_before": before.metrics}
        print_json({"checkpoint": str(output), **metrics, "before": sizes[0], "after": sizes[1]})
        return
    _show(before, made, sizes)
    note(f"checkpoint: {output}")


def _check_output(output: Path, checkpoint: Path, *, force: bool) -> None:
    from millirec.models.rankers.checkpoint import is_ranker

    if output.resolve() == checkpoint.resolve():
        raise ConfigError(f"--output {output} is the checkpoint itself", "name another folder")
    if output.exists() and not is_ranker(output):
        raise ArtifactError(f"{output} exists and is no ranker", "name a new folder")
    if output.exists() and not force:
        raise ConfigError(f"{output}: holds a ranker", "name another folder, or pass --force")


def _show(before: "RankerCheckpoint", made: "RankerCheckpoint", sizes: "tuple[RankerSize, RankerSize]") -> None:
    old, new = sizes
    rows = [
        [name.replace("_", " "), f"{getattr(old, name):,}", f"{getattr(new, name):,}"]
        for name in old.__struct_fields__
        if getattr(old, name) or getattr(new, name)
    ]
    told = [name for name in ("auc", "log_loss") if name in before.metrics and name in made.metrics]
    rows += [[f"{name}, validation", f"{before.metrics[name]:.4f}", f"{made.metrics[name]:.4f}"] for name in told]
    table("what changed", ["", "before", "after"], rows)
    gone = [f.name for f in before.featuriser.fields if f.name not in made.featuriser.learned]
    if gone:
        note(f"features that are no longer needed: {', '.join(gone)}")
