"""The `millirec` command."""

import sys
from typing import Annotated

import typer
from rich.markup import escape

from millirec import __version__
from millirec.cli.bench import bench
from millirec.cli.compress import compress
from millirec.cli.console import err
from millirec.cli.data import app as data_app
from millirec.cli.evaluate import evaluate
from millirec.cli.features import features
from millirec.cli.frontier import frontier
from millirec.cli.pack import pack
from millirec.cli.recommend import recommend
from millirec.cli.robustness import robustness
from millirec.cli.serve import serve
from millirec.cli.train import train
from millirec.data.errors import MillirecError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From an interaction log to a deep recommender that answers in about a millisecond.",
)
app.add_typer(data_app, name="data")
for command in (train, evaluate, features, robustness, compress, pack, frontier, serve, bench, recommend):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"millirec {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run a command; exit 0, or 2 with one line for the user's mistake. Ours (exit 1) show their traceback."""
    try:
        app()
    except MillirecError as error:
        err.print(f"[red]error:[/red] {escape(error.problem)}", highlight=False, soft_wrap=True)
        if error.mend:
            err.print(f"[green]mend:[/green]  {escape(error.mend)}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "polars", "scipy", "onnx", "tensorboard", "plotly"):
            err.print(f"[red]error:[/red] {error.name} is not installed; this is a serving install", highlight=False)
            err.print("[green]mend:[/green]  pip install 'millirec\\[train]'", highlight=False)
            sys.exit(2)
        raise
