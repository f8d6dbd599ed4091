"""`millirec data`: look at logs, and make them."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from millirec.cli.console import err, note, out, print_json, table
from millirec.cli.train import thin_lines

if TYPE_CHECKING:
    from millirec.data.compact.formats import Format
    from millirec.data.dataset import Dataset
    from millirec.data.inspect import Report
    from millirec.data.sources import SourceConfig
    from millirec.data.thin import ThinReport

app = typer.Typer(no_args_is_help=True, help="Look at logs, and make them.")


@app.command()
def inspect(
    path: Annotated[Path | None, typer.Argument(help="A file or folder; its format is guessed.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="A run's TOML: its [data] is read.")] = None,
    user: Annotated[str | None, typer.Option(help="The column of users or sessions.")] = None,
    item: Annotated[str | None, typer.Option(help="The column of items.")] = None,
    time: Annotated[str | None, typer.Option(help="The column of times; '' for none.")] = None,
    value: Annotated[str | None, typer.Option(help="The column of values, such as ratings; '' for none.")] = None,
    on_error: Annotated[Literal["fail", "skip"], typer.Option(help="What to do with bad rows.")] = "fail",
    rejected: Annotated[Path, typer.Option(help="Where bad rows go (JSON lines).")] = Path("rejected.jsonl"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What is in a log, and what looks wrong; with -c also what its [thin] would leave out of training."""
    import msgspec

    from millirec.data.inspect import inspect as look
    from millirec.data.sources import read

    columns = {"user": user, "item": item, "time": time, "value": value}
    source = _source(path, config, {name: given for name, given in columns.items() if given is not None})
    with err.status("reading") if err.is_terminal else contextlib.nullcontext():
        dataset = read(source, on_error=on_error, rejected=rejected)
        report = look(dataset)
        if config is not None:
            report = msgspec.structs.replace(report, thin=_thinned(config, dataset))
    if as_json:
        print_json(report)
    else:
        _print(report, type(source).__struct_config__.tag)
    if report.rejected:
        note(f"{report.rejected:,} bad rows were set aside in {rejected}")


def _source(path: Path | None, config: Path | None, columns: dict[str, str]) -> "SourceConfig":
    import msgspec

    from millirec.data.errors import ConfigError
    from millirec.data.sources import Columns, TableConfig
    from millirec.data.sources.guess import guess

    if (path is None) == (config is None):
        raise ConfigError("give either a path or a config", "give PATH, or -c run.toml")
    if config is not None:
        from millirec.config import load_run

        source: SourceConfig = load_run(config).data
    else:
        assert path is not None  # noqa: S101
        source = TableConfig(path=str(path)) if columns else guess(path)
    if not columns:
        return source
    if not isinstance(source, TableConfig):
        raise ConfigError("--user, --item, --time and --value are for tables", "leave them out")
    known = {name: getattr(source.columns, name) for name in Columns.__struct_fields__}
    return msgspec.structs.replace(source, columns=Columns(**(known | columns)))


def _thinned(config: Path, dataset: "Dataset") -> "ThinReport | None":
    """What the config's [thin] leaves out of the training part of its split; None when it has none."""
    from millirec.config import RankerRun, load_run
    from millirec.data.split import split
    from millirec.data.thin import thin

    run = load_run(config)
    if isinstance(run, RankerRun) or run.thin is None:
        return None
    return thin(split(dataset, run.split) if dataset.protocol == "none" else dataset, run.thin)[1]


def _print(report: "Report", kind: Any) -> None:
    span = f"{report.first_time} to {report.last_time}" if report.first_time else "no times: file order"
    rows = [
        ["read as", str(kind)],
        ["users", f"{report.users:,}"],
        ["items", f"{report.items:,}"],
        ["events", f"{report.events:,}"],
        ["rejected rows", f"{report.rejected:,}"],
        ["time span", span],
        ["density", f"{report.density:.4%}"],
        ["repeats", f"{report.repeats:,}"],
        ["events tied in time", f"{report.tied_events:,}"],
        ["users whose last two events tie", f"{report.tied_last_users:,}"],
        ["split", report.protocol],
    ]
    for what, features in (("item", report.item_features), ("user", report.user_features)):
        rows += [[f"{what} feature {name}", kind_] for name, kind_ in features.items()]
    rows += [[f"missing {name}", f"{count:,}"] for name, count in report.missing.items()]
    table(report.name, ["", ""], rows)
    heads = list(report.events_per_user)
    per = {"user": report.events_per_user, "item": report.events_per_item}
    table(
        "events per", ["", *heads], [[name, *(f"{f:,.6g}" for f in figures.values())] for name, figures in per.items()]
    )
    if report.thin is not None:
        out.print("\n".join(thin_lines(report.thin)), highlight=False)
    if not report.findings:
        out.print("nothing looks wrong")
        return
    out.print("[bold]what looks wrong[/bold]")
    for finding in report.findings:
        out.print(f"  {finding.count:,} x {finding.kind}: {finding.explanation}", markup=False, highlight=False)
        out.print(f"      for example {finding.example}", markup=False, highlight=False, style="dim")


@app.command()
def compress(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to write; an older compact log there is replaced.")
    ],
    path: Annotated[Path | None, typer.Argument(help="A file or folder; its format is guessed.")] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="A run's TOML: its \\[data] is read.")] = None,
    user: Annotated[str | None, typer.Option(help="The column of users or sessions.")] = None,
    item: Annotated[str | None, typer.Option(help="The column of items.")] = None,
    time: Annotated[str | None, typer.Option(help="The column of times; '' for none.")] = None,
    value: Annotated[str | None, typer.Option(help="The column of values, such as ratings; '' for none.")] = None,
    compare: Annotated[
        bool, typer.Option("--compare/--no-compare", help="Write csv and parquet too, in a temporary folder, and time.")
    ] = True,
    on_error: Annotated[Literal["fail", "skip"], typer.Option(help="What to do with bad rows.")] = "fail",
    rejected: Annotated[Path, typer.Option(help="Where bad rows go (JSON lines).")] = Path("rejected.jsonl"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """A log in a few bytes an event, which loads fast: read it with \\[data] kind = "compact"."""
    from millirec.data.compact import check_place, formats, save_compact
    from millirec.data.sources import read

    check_place(output)
    columns = {"user": user, "item": item, "time": time, "value": value}
    source = _source(path, config, {name: given for name, given in columns.items() if given is not None})
    with err.status("reading and writing") if err.is_terminal else contextlib.nullcontext():
        dataset = read(source, on_error=on_error, rejected=rejected)
        save_compact(dataset, output)
        found = formats.compare(dataset, output) if compare else [formats.compact_format(dataset, output)]
    if dataset.rejected:
        note(f"{dataset.rejected:,} bad rows were set aside in {rejected}")
    if as_json:
        print_json({"log": str(output), "events": len(dataset.interactions), "formats": found})
    else:
        _print_formats(f"{output}: {len(dataset.interactions):,} events", found)


def _print_formats(title: str, formats: "list[Format]") -> None:
    rows = [
        [f.name, f"{f.bytes:,}", f"{f.bytes_per_event:.2f}", "-" if f.load_seconds is None else f"{f.load_seconds:.3f}"]
        for f in formats
    ]
    table(title, ["format", "bytes", "bytes an event", "seconds to load"], rows)
    note(
        f"compact holds ids and features too, in {formats[-1].beside:,} of its bytes; csv and parquet hold events alone"
    )


@app.command()
def simulate(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; it must not exist yet.")],
    users: Annotated[int, typer.Option(help="Users.")] = 1000,
    items: Annotated[int, typer.Option(help="Items, up to 10 million and more.")] = 2000,
    events: Annotated[int, typer.Option(help="Events.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Same seed, same log.")] = 1,
    format: Annotated[Literal["parquet", "csv", "jsonl"], typer.Option(help="Of all files.")] = "parquet",  # noqa: A002
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A run's TOML with a simulated [data]; used instead.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a simulated log with known truth, in a stream."""
    from rich.progress import Progress

    from millirec.data.errors import ConfigError
    from millirec.data.simulate import write
    from millirec.data.world import SimulatedConfig

    world = SimulatedConfig(users=users, items=items, events=events, seed=seed, categories=min(20, max(items, 1)))
    if config is not None:
        from millirec.config import load_run

        loaded = load_run(config).data
        if not isinstance(loaded, SimulatedConfig):
            raise ConfigError(f"{config}: $.data is not simulated", 'set kind = "simulated"')
        world = loaded
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("events", total=world.events)
        write(world, folder, format=format, progress=lambda n: bar.advance(task, n))
    if as_json:
        print_json({"folder": str(folder), "users": world.users, "items": world.items, "events": world.events})
    else:
        out.print(
            f"{folder}: {world.events:,} events of {world.users:,} users on {world.items:,} items", highlight=False
        )
