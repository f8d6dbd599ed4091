"""`millirec compress`: a checkpoint and a recipe become a smaller or faster checkpoint."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millirec.cli.compress_ranker import compress_ranker
from millirec.cli.console import TrainingBar, note, out, print_json, table
from millirec.cli.ranker import rankers_among
from millirec.data.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from millirec.cli.artifact import Artifact
    from millirec.compress.config import CompressConfig
    from millirec.compress.report import Description
    from millirec.data.dataset import Dataset
    from millirec.models.checkpoint import Checkpoint


def compress(
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint's folder.", metavar="CHECKPOINT")],
    config: Annotated[Path, typer.Option("--config", "-c", help="The recipe's TOML; see docs/compression.md.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the new checkpoint.")],
    force: Annotated[bool, typer.Option("--force", help="Replace an older checkpoint there.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print what changed as JSON.")] = False,
) -> None:
    """Follow a recipe: prune, quantise, factorise, distil ...; writes a new checkpoint and tells what changed.

    A recipe that was stopped goes on where it was: finished steps lie in OUTPUT-progress until all are done. Recipes
    of rankers have steps of their own, and begin anew.
    """
    from millirec.cli.allocator import use_fast_allocator
    from millirec.cli.artifact import Artifact
    from millirec.compress.report import described
    from millirec.models.checkpoint import Checkpoint

    use_fast_allocator()
    if rankers_among([checkpoint]):
        compress_ranker(checkpoint, config, output, force=force, json=json)
        return
    recipe = _recipe(config)
    _check_output(output, checkpoint, force=force)
    artifact = Artifact.open(checkpoint)
    if artifact.bundled:
        raise ConfigError(f"{checkpoint} is a bundle", "give the checkpoint that it was packed from")
    before = Checkpoint.load(checkpoint)
    made = _follow(recipe, before, artifact, output)
    report = described(before, made)
    if json:
        print_json(
            {"checkpoint": str(output), "metrics": made.metrics, "metrics_before": before.metrics} | _plain(report)
        )
    else:
        _show(report, before, made, output)


def _recipe(path: Path) -> "CompressConfig":
    from millirec.compress.config import CompressConfig
    from millirec.config import convert, read_toml

    recipe: CompressConfig = convert(read_toml(path), CompressConfig, str(path))
    recipe.machine.prepare()
    return recipe


def _check_output(output: Path, checkpoint: Path, *, force: bool) -> None:
    """Only a checkpoint is replaced, and never the one that is read."""
    if output.resolve() == checkpoint.resolve():
        raise ConfigError(f"--output {output} is the checkpoint itself", "name another folder")
    if not output.exists():
        return
    if not (output / "checkpoint.json").is_file():
        raise ArtifactError(f"{output} exists and is no checkpoint", "name a new folder")
    if not force:
        raise ConfigError(f"{output}: holds a checkpoint", "name another folder, or pass --force")


def _follow(recipe: "CompressConfig", before: "Checkpoint", artifact: "Artifact", output: Path) -> "Checkpoint":
    """All that can be refused is refused before the first step, the data included."""
    from millirec.compress.recipe import check
    from millirec.compress.recipe import compress as follow
    from millirec.compress.workshop import Workshop

    check(recipe, before.config, len(before.catalog))
    dataset = _data(recipe, artifact) if any(step.needs_data for step in recipe.steps) else None
    progress = output.with_name(f"{output.name}-progress")
    with TrainingBar() as bar:
        workshop = Workshop(
            read=None if dataset is None else lambda: dataset,
            machine=recipe.machine,
            journal=bar,
            folder=progress,
            repeats=artifact.repeats,
        )
        made = follow(before, recipe, workshop)
    made.save(output)
    shutil.rmtree(progress, ignore_errors=True)
    return made


def _data(recipe: "CompressConfig", artifact: "Artifact") -> "Dataset":
    if recipe.data is None and not artifact.provenance.source:
        raise ConfigError("the checkpoint does not say where its data is", "add [data] to the recipe")
    return artifact.data_of(recipe.data, recipe.split)


def _plain(report: "Description") -> dict[str, object]:
    import msgspec

    plain: dict[str, object] = msgspec.to_builtins(report)
    return plain


def _show(report: "Description", before: "Checkpoint", made: "Checkpoint", output: Path) -> None:
    rows = [
        _row("numbers", report.before.numbers, report.after.numbers),
        ["of them zeros", f"{report.before.zeros:,}", f"{report.after.zeros:,}", ""],
        _row("bytes on disk", report.before.bytes, report.after.bytes),
    ]
    if report.before.multiply_adds and report.after.multiply_adds:
        rows.append(_row("multiply-adds a user vector", report.before.multiply_adds, report.after.multiply_adds))
    old, new = before.metrics.get("ndcg@10"), made.metrics.get("ndcg@10")
    if old and new:
        rows.append(["ndcg@10, validation", f"{old:.4f}", f"{new:.4f}", f"{new / old:.3f}"])
    table("what changed", ["", "before", "after", "ratio"], rows)
    if report.after.zeros > report.before.zeros:
        table("zeros", ["parameter", "share"], [[name, f"{share:.1%}"] for name, share in report.zeros.items()])
    for remark in report.remarks:
        out.print(remark, highlight=False, markup=False)
    took = sum(step.seconds for step in made.lineage[len(before.lineage) :])
    note(f"compressed in {took:.1f} s; checkpoint: {output}")


def _row(name: str, before: int, after: int) -> list[str]:
    return [name, f"{before:,}", f"{after:,}", f"{after / before:.3f}"]
