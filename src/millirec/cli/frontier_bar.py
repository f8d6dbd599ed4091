"""How a frontier shows its progress."""

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from millirec.cli.console import TrainingBar, err, note

if TYPE_CHECKING:
    from millirec.frontier.pace import Pace


class FrontierBar:
    """Told of the frontier's tasks and of trainings within them: one bar on a terminal, else a line for each task.

    It is drawn between tasks only, by nobody's thread: while a server is loaded, this process must do nothing else.
    """

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn())
        self._bar = Progress(
            *columns, TextColumn("{task.fields[left]}"), console=err, transient=True, auto_refresh=False
        )
        self._task = self._bar.add_task("", total=1, left="")
        self._pace: Pace | None = None
        self._training: TrainingBar | None = None

    def __enter__(self) -> "FrontierBar":
        return self

    def __exit__(self, *_: object) -> None:
        self._end_training()
        self._draw(on=False)

    def plan(self, tasks: Mapping[str, int]) -> None:
        """So many of each kind."""
        from millirec.frontier.pace import Pace

        self._pace = Pace(tasks)
        self._draw(on=True)

    def begin(self, kind: str, what: str) -> None:
        """The bar shows what is being done."""
        if self._pace is None:
            return
        self._pace.begin(kind)
        seconds = self._pace.seconds_left()
        left = "" if seconds is None else f"{timedelta(seconds=round(seconds))} left"
        self._bar.update(
            self._task, description=f"{kind} {what}", completed=self._pace.done, total=self._pace.total, left=left
        )
        if err.is_terminal:
            self._bar.refresh()
        else:
            note(f"{self._pace.done + 1}/{self._pace.total} {kind} {what}{f', {left}' if left else ''}")

    def end(self) -> None:
        """The task is done."""
        self._end_training()
        if self._pace is not None:
            self._pace.end()

    def epoch(self, number: int, n_batches: int, done: int) -> None:
        """A training has begun within a task: its own bar takes the place of this one."""
        if self._training is None:
            self._draw(on=False)
            self._training = TrainingBar().__enter__()
        self._training.epoch(number, n_batches, done)

    def batch(self, loss: float) -> None:
        """Passed on."""
        if self._training is not None:
            self._training.batch(loss)

    def validated(self, epoch: int, figures: dict[str, float], *, best: bool) -> None:
        """Passed on."""
        if self._training is not None:
            self._training.validated(epoch, figures, best=best)

    def _end_training(self) -> None:
        if self._training is not None:
            self._training.__exit__()
            self._training = None
            self._draw(on=True)

    def _draw(self, *, on: bool) -> None:
        if err.is_terminal:
            (self._bar.start if on else self._bar.stop)()
