"""`millirec train`: a config becomes a checkpoint."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from millirec.cli.console import TrainingBar, note, print_json, table
from millirec.data.errors import ConfigError

if TYPE_CHECKING:
    from millirec.config import RunConfig
    from millirec.data.dataset import Dataset
    from millirec.data.sources import SourceConfig
    from millirec.data.thin import ThinConfig, ThinReport
    from millirec.train.fine_tune import Earlier


def train(
    config: Annotated[Path, typer.Option("--config", "-c", help="The run's TOML; see docs/configuration.md.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a killed run of the same config stopped.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the results of an earlier run of the same name.")
    ] = False,
    on_error: Annotated[
        str, typer.Option(help="A bad row of the log: fail, or skip (counted, and written aside).")
    ] = "fail",
    json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Train a model, or a ranker: reads the log, splits it, audits the split, trains, and measures the test part.

    Writes runs/NAME/checkpoint (the model), metrics.json (the figures) and run.toml (the config in full); with [thin]
    also thin.json (what was left out of training).
    """
    from millirec.cli.allocator import use_fast_allocator
    from millirec.cli.ranker import train_ranker
    from millirec.config import RankerRun, load_run

    use_fast_allocator()
    run = load_run(config)
    folder = Path(run.out) / run.name
    if isinstance(run, RankerRun):
        run.machine.prepare()
        _make_room(folder, resume=resume, force=force)
        train_ranker(run, folder, on_error, resume=resume, json=json)
        return
    earlier = ready(run)
    _make_room(folder, resume=resume, force=force)
    folder.mkdir(parents=True, exist_ok=True)
    dataset = read_split(run, folder, on_error, earlier)
    metrics = learn(run, dataset, folder, earlier, resume=resume)
    if json:
        print_json(metrics)
    else:
        _show(metrics, folder)


def ready(run: "RunConfig") -> "Earlier | None":
    """Refuses what cannot work on this machine before any data is read; the checkpoint of a warm start."""
    from millirec.train.fine_tune import Earlier

    run.machine.prepare()
    return None if run.warm_start is None else Earlier.open(run.warm_start, run.model)


def _make_room(folder: Path, *, resume: bool, force: bool) -> None:
    if resume and force:
        raise ConfigError("both --resume and --force are given", "choose one")
    if (folder / "checkpoint").exists() and not (resume or force):
        raise ConfigError(f"{folder}: holds the results of an earlier run", "choose another $.name, or pass --force")
    if not resume:
        for name in ("progress", "checkpoint", "tensorboard"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "thin.json").unlink(missing_ok=True)


def read_log(source: "SourceConfig", folder: Path, on_error: str) -> "Dataset":
    """The log as it is; bad rows that are left out are told."""
    from millirec.data.sources import read

    if on_error not in ("fail", "skip"):
        raise ConfigError(f"--on-error {on_error}", "use fail or skip")
    dataset = read(source, on_error=on_error, rejected=folder / "rejected.jsonl")  # type: ignore[arg-type]
    if dataset.rejected:
        note(f"[yellow]{dataset.rejected:,} bad rows left out:[/yellow] {folder / 'rejected.jsonl'}")
    return dataset


def read_split(run: "RunConfig", folder: Path, on_error: str, earlier: "Earlier | None") -> "Dataset":
    """The split and audited data; leaks are told before any time is spent, and stand in metrics.json."""
    from millirec.cli.evaluate import report_leaks
    from millirec.data.audit import audit
    from millirec.data.extend import extended
    from millirec.data.split import split

    dataset = read_log(run.data, folder, on_error)
    if dataset.protocol == "none":
        dataset = split(dataset, run.split)
    if earlier is not None:
        dataset = extended(dataset, earlier.checkpoint.catalog)
    if run.thin is not None:
        dataset = _thinned(dataset, run.thin, folder)
    report_leaks(audit(dataset, repeats=run.train.repeats))
    note(
        f"{len(dataset.interactions):,} events, {len(dataset.users):,} users, "
        f"{len(dataset.items):,} items; {dataset.protocol}"
    )
    return dataset


def _thinned(dataset: "Dataset", config: "ThinConfig", folder: Path) -> "Dataset":
    """Fewer training events; what was left out is told, and stands in thin.json."""
    import msgspec

    from millirec.data.thin import thin

    dataset, report = thin(dataset, config)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "thin.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    for line in thin_lines(report):
        note(line)
    return dataset


def thin_lines(report: "ThinReport") -> list[str]:
    """What was left out of training and why, in words."""
    kept = f"{report.events_kept:,} of {report.events:,} training events"
    lines = [f"thinned: {kept} of {report.users_kept:,} of {report.users:,} users are left"]
    for out in report.left_out:
        example = f" (such as {out.example})" if out.example else ""
        lines.append(f"  {out.reason}: {out.events:,} events of {out.users:,} users: {out.explanation}{example}")
    return [escape(line) for line in lines]


def learn(
    run: "RunConfig", dataset: "Dataset", folder: Path, earlier: "Earlier | None", *, resume: bool
) -> dict[str, Any]:
    """Train and measure; writes run.toml, checkpoint and metrics.json into `folder`. Returns the metrics."""
    import msgspec

    from millirec.config import dumps
    from millirec.data.dataset import TEST
    from millirec.train.evaluate import evaluate
    from millirec.train.fine_tune import fine_tune
    from millirec.train.fit import fit
    from millirec.train.journal import TensorBoard

    (folder / "run.toml").write_text(dumps(run), encoding="utf-8")
    with TrainingBar() as bar:
        journal, progress = TensorBoard(folder / "tensorboard", bar), folder / "progress"
        how = (run.train, run.machine, journal)
        if earlier is None:
            checkpoint = fit(dataset, run.model, *how, progress=progress, resume=resume)
        else:
            checkpoint = fine_tune(earlier, dataset, *how, progress=progress, resume=resume)
    provenance = msgspec.structs.replace(
        checkpoint.provenance,
        source=msgspec.to_builtins(run.data),
        split=msgspec.to_builtins(run.split),
        thin=msgspec.to_builtins(run.thin) or {},
    )
    checkpoint = checkpoint.with_provenance(provenance)
    checkpoint.save(folder / "checkpoint")
    figures = evaluate(checkpoint, dataset, TEST, repeats=run.train.repeats)
    metrics = {"model": msgspec.to_builtins(run.model), "validation": checkpoint.metrics, "test": figures}
    metrics["seconds"] = checkpoint.lineage[-1].seconds
    (folder / "metrics.json").write_bytes(msgspec.json.format(msgspec.json.encode(metrics), indent=1))
    return metrics


def _show(metrics: dict[str, Any], folder: Path) -> None:
    from millirec.cli.evaluate import FIGURE_COLUMNS, figure_rows

    test = metrics["test"]
    table(
        f"test: {test.protocol}, {test.n_targets:,} targets",
        FIGURE_COLUMNS,
        figure_rows(test),
    )
    note(f"trained in {metrics['seconds']:.0f} s; checkpoint: {folder / 'checkpoint'}")
