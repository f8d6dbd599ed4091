"""What every command shares: where it prints, and how a training shows its progress."""

import sys
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.table import Table

out = Console()
wide = Console(width=300)  # for tables where there is no terminal
err = Console(stderr=True)


def print_json(value: Any) -> None:
    """One JSON document on standard output, for machines."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def note(text: str) -> None:
    """A remark for the person at the terminal, on standard error, so that --json stays clean."""
    err.print(text, highlight=False)


def busy(text: str) -> Status:
    """A sign of life at a terminal for as long as what is inside `with` takes; nothing elsewhere."""
    return err.status(text)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on standard output: the first column to the left, the others to the right.

    No figure is cut: cells fold where a terminal is narrow, and a pipe or a file gets the whole width.
    """
    view = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        view.add_column(column, justify="left" if i == 0 else "right", overflow="fold", no_wrap=i == 0)
    for row in rows:
        view.add_row(*row)
    (out if out.is_terminal else wide).print(view)


class TrainingBar:
    """A `Journal` for the terminal: a bar for each epoch with speed and time left, a line for each validation."""

    def __init__(self) -> None:
        columns = (
            TextColumn("epoch {task.fields[number]}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]} loss {task.fields[loss]:.3f}"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
        self._task: TaskID | None = None

    def __enter__(self) -> "TrainingBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def epoch(self, number: int, n_batches: int, done: int) -> None:
        """A new bar."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task("", total=n_batches, completed=done, number=number, loss=0.0, speed="")

    def batch(self, loss: float) -> None:
        """One step on."""
        if self._task is not None:
            speed = self._bar.tasks[-1].speed
            text = f"{speed:.1f} batches/s" if speed else ""
            self._bar.update(self._task, advance=1, loss=loss, speed=text)

    def validated(self, epoch: int, figures: dict[str, float], *, best: bool) -> None:
        """A line that stays."""
        text = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        err.print(f"epoch {epoch:3d}  {text}{'  best so far' if best else ''}", highlight=False)
