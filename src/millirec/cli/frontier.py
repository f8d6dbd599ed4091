"""`millirec frontier`: one teacher becomes a family of bundles, all measured, and the best within limits is chosen."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millirec.cli.console import note, out, print_json, table
from millirec.cli.frontier_bar import FrontierBar
from millirec.data.errors import ConfigError

if TYPE_CHECKING:
    from millirec.compress.workshop import Workshop
    from millirec.config import RunConfig
    from millirec.data.dataset import Dataset
    from millirec.frontier.config import FrontierConfig
    from millirec.frontier.result import Entry, Frontier
    from millirec.models.checkpoint import Checkpoint
    from millirec.models.config import ModelConfig
    from millirec.train.fine_tune import Earlier

NOTHING_FITS = 3


def frontier(
    config: Annotated[Path, typer.Option("--config", "-c", help="The frontier's TOML; see docs/frontier.md.")],
    gate: Annotated[
        float | None,
        typer.Option(help="Choose no variant that may keep less than this share of the teacher's NDCG@10."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print frontier.json.")] = False,
) -> None:
    """Compress, pack and measure variants of a model, and choose the best bundle within your limits.

    Writes frontiers/NAME/frontier.json, report.html and chosen/ (a bundle). A run that was stopped goes on where it
    was. Exits with 3 when no variant keeps every limit; then the nearest lies in nearest/.
    """
    import plotly  # noqa: F401 - where it is not installed, that is said now and not when all is measured

    from millirec.cli.allocator import use_fast_allocator
    from millirec.config import dumps
    from millirec.frontier.check import check
    from millirec.frontier.run import run

    use_fast_allocator()
    settings = _settings(config, gate)
    settings.machine.prepare()
    teacher = _run_teacher(settings) if settings.teacher.endswith(".toml") else _trained_teacher(settings)
    check(settings, teacher.model, teacher.dataset, repeats=teacher.repeats)
    checkpoint = teacher.checkpoint()
    with FrontierBar() as bar:
        found, folder = run(settings, checkpoint, _workshop(settings, teacher, bar), bar, dumps)
    if json:
        print_json(found)
    else:
        _show(found, folder)
    if found.choice.chosen is None:
        raise typer.Exit(NOTHING_FITS)


def _settings(path: Path, gate: float | None) -> "FrontierConfig":
    from millirec.config import convert, read_toml
    from millirec.frontier.config import FrontierConfig

    raw = read_toml(path)
    if gate is not None:
        raw["gate"] = gate
    settings: FrontierConfig = convert(raw, FrontierConfig, str(path))
    return settings


@dataclass(frozen=True, slots=True)
class _Teacher:
    """The model that all others are held against, which may have to be trained yet, and its data."""

    model: "ModelConfig"
    dataset: "Dataset"
    repeats: bool
    checkpoint: "Callable[[], Checkpoint]"


def _trained_teacher(settings: "FrontierConfig") -> _Teacher:
    from millirec.cli.artifact import Artifact
    from millirec.models.checkpoint import Checkpoint

    artifact = Artifact.open(Path(settings.teacher))
    if artifact.bundled:
        raise ConfigError(
            f"$.teacher = {settings.teacher!r} is a bundle", "give the checkpoint that it was packed from"
        )
    checkpoint = Checkpoint.load(artifact.path)
    repeats = artifact.repeats if settings.repeats is None else settings.repeats
    return _Teacher(checkpoint.config, artifact.data_of(settings.data, settings.split), repeats, lambda: checkpoint)


def _run_teacher(settings: "FrontierConfig") -> _Teacher:
    """A run's TOML; it is trained as `millirec train --resume` does, unless it has been."""
    from millirec.cli.train import read_split, ready
    from millirec.config import load

    run = load(Path(settings.teacher))
    for name in ("data", "split"):
        if getattr(settings, name) is not None:
            raise ConfigError(f"$.{name}: stands in {settings.teacher} already", f"leave [{name}] out here")
    folder = Path(run.out) / run.name
    if (folder / "checkpoint").exists() and load(folder / "run.toml") != run:
        raise ConfigError(
            f"{folder}: holds the results of a run with other settings than {settings.teacher}",
            "choose another $.name there, or give that checkpoint as $.teacher",
        )
    earlier = ready(run)
    dataset = read_split(run, folder, "fail", earlier)
    repeats = run.train.repeats if settings.repeats is None else settings.repeats
    return _Teacher(run.model, dataset, repeats, lambda: _learned(run, dataset, folder, earlier))


def _learned(run: "RunConfig", dataset: "Dataset", folder: Path, earlier: "Earlier | None") -> "Checkpoint":
    from millirec.cli.train import learn
    from millirec.models.checkpoint import Checkpoint

    if not (folder / "checkpoint").exists():
        note(f"training the teacher: {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        learn(run, dataset, folder, earlier, resume=True)
    return Checkpoint.load(folder / "checkpoint")


def _workshop(settings: "FrontierConfig", teacher: _Teacher, bar: FrontierBar) -> "Workshop":
    from millirec.compress.workshop import Workshop

    return Workshop(read=lambda: teacher.dataset, machine=settings.machine, journal=bar, repeats=teacher.repeats)


_COLUMNS = ["", "NDCG@10", "kept", "p99 ms", "req/s", "MiB", "MB", ""]


def _show(found: "Frontier", folder: Path) -> None:
    from millirec.frontier.trials import summary

    if found.search is not None:
        out.print(f"searched {summary(found.search)}", highlight=False, markup=False)
    title = f"frontier {found.name}: quality, speed, memory of the server, size of the bundle"
    table(title, _COLUMNS, [_row(entry, found) for entry in found.variants])
    for entry in found.variants:
        for remark in entry.remarks:
            out.print(f"{entry.figures.name}: {remark}", highlight=False, markup=False)
    choice = found.choice
    if choice.chosen is None:
        out.print(f"nothing fits: {choice.reason}", highlight=False, markup=False)
    else:
        out.print(f"chosen: {choice.chosen}, because {choice.reason}", highlight=False, markup=False)
        second = f"runner-up, {choice.runner_up}" if choice.runner_up else "runner-up"
        out.print(f"{second}: {choice.runner_up_costs}", highlight=False, markup=False)
    note(f"report: {folder.parent / 'report.html'}")
    engine = folder.parent / "engine.toml"
    note(f"serve it: millirec serve {folder}{f' --engine {engine}' if engine.exists() else ''}")


def _row(entry: "Entry", found: "Frontier") -> list[str]:
    one, name = entry.figures, entry.figures.name
    mark = "chosen" if name == found.choice.chosen else "fails a limit" if found.choice.misses.get(name) else ""
    return [
        name,
        f"{one.quality.figures['ndcg@10'].value:.4f}",
        f"{one.quality.kept.value:.1%}",
        f"{one.speed.p99_ms.median:,.2f}",
        f"{one.speed.requests_per_second.median:,.0f}",
        f"{one.speed.memory_mb.median:,.0f}",
        f"{one.bundle_bytes / 1e6:,.2f}",
        f"{mark}{' (noisy)' if one.speed.noisy else ''}",
    ]
