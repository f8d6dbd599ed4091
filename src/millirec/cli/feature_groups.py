"""`millirec features --retrain`: the groups that are asked for, how far it is, and what was found."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from millirec.cli.console import err, note, table
from millirec.data.errors import ConfigError

if TYPE_CHECKING:
    from millirec.data.features import RankingRows
    from millirec.models.rankers.checkpoint import RankerCheckpoint
    from millirec.train.feature_retraining import Groups, Retraining, RetrainingReport


def named_groups(texts: Iterable[str]) -> "dict[str, tuple[str, ...]]":
    """Of texts NAME=FEATURE,FEATURE. Raises ConfigError for others, and for a name that stands twice."""
    out: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, equals, features = text.partition("=")
        names = tuple(part.strip() for part in features.split(",") if part.strip())
        if not name or not equals or not names:
            raise ConfigError(f"--group {text!r}", "write NAME=FEATURE,FEATURE")
        if name in out:
            raise ConfigError(f"--group {name} stands twice", "give each group a name of its own")
        out[name] = names
    return out


def retrained(
    ranker: "RankerCheckpoint",
    rows: "RankingRows",
    groups: "Groups",
    role: int,
    *,
    seeds: int,
    threshold: float,
    config: Path | None,
) -> "RetrainingReport":
    """Retrain without each group, on the machine that `config` tells, with a bar where a terminal is attached."""
    from millirec.config import load_run
    from millirec.train.feature_retraining import retraining_report
    from millirec.train.machine import Machine

    trainings = (1 + len(groups)) * seeds - 1
    seconds = ranker.lineage[0].seconds if ranker.lineage else 0.0
    note(f"{trainings} trainings: some {minutes(trainings * seconds)} if each takes as long as the ranker did")
    machine = load_run(config).machine if config else Machine()
    with RetrainingBar(trainings) as told:
        return retraining_report(
            ranker, rows, groups, role, seeds=seeds, threshold=threshold, machine=machine, told=told
        )


def minutes(seconds: float) -> str:
    """A duration as people say it."""
    return f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"


class RetrainingBar:
    """A bar of all trainings with the time left, and a line for each that is done."""

    def __init__(self, trainings: int) -> None:
        columns = (TextColumn("retraining"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
        self._task = self._bar.add_task("", total=trainings)

    def __enter__(self) -> "RetrainingBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: "Retraining") -> None:
        """One more is done."""
        self._bar.update(self._task, completed=done.done)
        what = f"without {done.group}" if done.group else "with all features"
        left = minutes(done.seconds / done.done * (done.trainings - done.done))
        place = f"{done.done} of {done.trainings}, {left} left"
        err.print(f"{what}, seed {done.seed}: AUC {done.auc:.4f} ({place})", highlight=False)


def show_groups(report: "RetrainingReport", part: str) -> None:
    """As a table, the group first without which most is lost."""
    lines = []
    for worth in report.groups:
        cells = [worth.name]
        for figure, digits in ((worth.auc, 4), (worth.log_loss, 5)):
            cells += [f"{figure.value:+.{digits}f}", f"{figure.low:+.{digits}f} to {figure.high:+.{digits}f}"]
        spread = " ".join(f"{auc:+.4f}" for auc in worth.aucs)
        lines.append([*cells, f"{worth.p_value:.3f}", spread, "can go" if worth.useless else ""])
    columns = ["left out", "AUC lost", "95 % interval", "log loss lost", "95 % interval", "p", "AUC lost, by seed", ""]
    table(f"{part}: {report.n_rows:,} rows, retrained with seeds {', '.join(map(str, report.seeds))}", columns, lines)
    note(f"with all features: AUC {report.auc:.4f}, log loss {report.log_loss:.4f}")
