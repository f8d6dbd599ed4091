"""`millirec features`: what each feature adds to a ranker, and what can go."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millirec.cli.console import note, print_json, table
from millirec.cli.feature_groups import named_groups, retrained, show_groups
from millirec.cli.ranker import rows_of_ranker
from millirec.data.errors import ConfigError

if TYPE_CHECKING:
    from millirec.train.feature_report import FeatureReport


def features(
    checkpoint: Annotated[Path, typer.Argument(help="A ranker's checkpoint.", metavar="CHECKPOINT")],
    part: Annotated[str, typer.Option(help="Which part to measure: validation or test.")] = "validation",
    repeats: Annotated[int, typer.Option(help="How often each feature is permuted.")] = 3,
    threshold: Annotated[float, typer.Option(help="A feature that adds no more log loss than this can go.")] = 0.0,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Also train the ranker anew without each feature, or each group.")
    ] = False,
    group: Annotated[
        list[str] | None,
        typer.Option(help="What to leave out together when retraining, as NAME=FEATURE,FEATURE. Repeatable."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="How many rankers to train without each.")] = 2,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A run's TOML that says where the data is now.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Permute each feature of a ranker on held-out rows: how much AUC and log loss it is worth, and what can go.

    With --retrain, also train it without each: what the others cannot make up for. The step `features` of a recipe
    (millirec compress) then leaves those out.
    """
    import msgspec

    from millirec.data.dataset import TEST, VALIDATION
    from millirec.models.rankers.checkpoint import RankerCheckpoint
    from millirec.train.feature_report import feature_report
    from millirec.train.feature_retraining import groups_of

    _check(part, repeats, seeds, grouped=bool(group) and not retrain)
    ranker = RankerCheckpoint.load(checkpoint)
    groups = groups_of(ranker, named_groups(group or [])) if retrain else None
    role, rows = TEST if part == "test" else VALIDATION, rows_of_ranker(ranker, config)
    report = feature_report(ranker, rows, role, repeats=repeats, threshold=threshold)
    worth = None
    if groups is not None:
        worth = retrained(ranker, rows, groups, role, seeds=seeds, threshold=threshold, config=config)
    if json:
        print_json({**msgspec.to_builtins(report), "retrained": worth} if worth else report)
        return
    show_features(report, part)
    if worth is not None:
        show_groups(worth, part)


def _check(part: str, repeats: int, seeds: int, *, grouped: bool) -> None:
    """Raises ConfigError. `grouped`: groups are named, and nothing is retrained."""
    if part not in ("test", "validation"):
        raise ConfigError(f"--part {part}", "use test or validation")
    if repeats < 1:
        raise ConfigError(f"--repeats {repeats}", "choose at least 1")
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}", "choose at least 1")
    if grouped:
        raise ConfigError("--group without --retrain", "add --retrain")


def show_features(report: "FeatureReport", part: str) -> None:
    """As a table, the most useful feature first."""
    lines = []
    for worth in report.features:
        loss = worth.log_loss
        cells = [worth.name, f"{worth.auc:+.4f}", f"{loss.value:+.5f}", f"{loss.low:+.5f} to {loss.high:+.5f}"]
        gain = "" if worth.gain is None else f"{worth.gain:.1%}"
        lines.append([*cells, f"{worth.share:.1%}", gain, "can go" if worth.useless else ""])
    columns = ["feature", "AUC lost", "log loss lost", "95 % interval", "share", "gain", ""]
    table(f"{part}: {report.n_rows:,} rows, each feature permuted {report.repeats} times", columns, lines)
    note(f"as it is: AUC {report.auc:.4f}, log loss {report.log_loss:.4f}")
    note("features that say the same hide each other: --retrain tells what is lost without each")
