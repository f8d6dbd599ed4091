"""`millirec robustness`: what is left of a model's quality under perturbed item vectors and noisy histories."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millirec.cli.artifact import Artifact, alike
from millirec.cli.console import note, print_json, table
from millirec.data.errors import ConfigError

if TYPE_CHECKING:
    from millirec.train.robustness import Condition, Conditions, Gap, Outcome, Robustness


def robustness(
    checkpoints: Annotated[
        list[Path], typer.Argument(help="Checkpoints, compared with the first.", metavar="CHECKPOINT...")
    ],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A run's TOML that says where the data is now.")
    ] = None,
    part: Annotated[str, typer.Option(help="Which part to measure: test or validation.")] = "test",
    targets: Annotated[int, typer.Option(help="Measure on a sample of this many targets; 0 = all.")] = 0,
    seed: Annotated[int, typer.Option(help="Of noise, of random perturbations, and of the sample.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Measure NDCG@10 and HR@10 clean, under attack on the item vectors, and with noisy histories.

    Perturbations: random, FGM and PGD, of lengths relative to the mean item vector. Noise: events dropped, swapped
    with neighbours, and injected at random. With 95 % bootstrap intervals; several checkpoints are compared with
    the first one, paired by target.
    """
    from millirec.train.robustness import Conditions

    if part not in ("test", "validation"):
        raise ConfigError(f"--part {part}", "use test or validation")
    if targets < 0:
        raise ConfigError(f"--targets {targets}", "choose 0 or more")
    opened = [Artifact.open(path) for path in checkpoints]
    for artifact in opened:
        if artifact.bundled:
            raise ConfigError(f"{artifact.path}: a bundle has no network to be perturbed", "give its checkpoint")
    alike(opened)
    report = _measure(opened, config, part, targets, Conditions(seed=seed))
    if json:
        print_json(report)
    else:
        _show(report, part)


def _measure(
    opened: list[Artifact], config: Path | None, part: str, limit: int, conditions: "Conditions"
) -> "Robustness":
    from millirec.data.dataset import TEST, VALIDATION
    from millirec.models.checkpoint import Checkpoint
    from millirec.train.evaluate import sample_targets
    from millirec.train.robustness import robustness

    dataset, repeats = opened[0].data(config), opened[0].repeats
    role = TEST if part == "test" else VALIDATION
    asked = sample_targets(dataset, role, limit, repeats=repeats, seed=conditions.seed)
    loaded = {str(artifact.path): Checkpoint.load(artifact.path) for artifact in opened}
    return robustness(loaded, dataset, asked, conditions, repeats=repeats)


def _show(report: "Robustness", part: str) -> None:
    for name in report.without_vectors:
        note(f"{name}: no item has a vector of its own that could be perturbed")
    title = f"{part}: {report.protocol}, {report.n_targets:,} targets of {report.n_users:,} users"
    columns = ["checkpoint", "condition", "NDCG@10", "95 % interval", "HR@10", "kept"]
    table(title, columns, [_row(outcome) for outcome in report.outcomes])
    if report.gaps:
        columns = ["a - b", "condition", "metric", "difference", "95 % interval", "p"]
        table("paired differences", columns, [_gap_row(gap) for gap in report.gaps])


def _row(outcome: "Outcome") -> list[str]:
    ndcg = outcome.ndcg_10
    figures = [f"{ndcg.value:.4f}", f"{ndcg.low:.4f} to {ndcg.high:.4f}", f"{outcome.hr_10.value:.4f}"]
    return [outcome.checkpoint, _named(outcome.condition), *figures, f"{outcome.kept:.1%}"]


def _gap_row(gap: "Gap") -> list[str]:
    interval = f"{gap.low:+.4f} to {gap.high:+.4f}"
    pair = f"{gap.a} - {gap.b}"
    return [pair, _named(gap.condition), gap.metric, f"{gap.difference:+.4f}", interval, f"{gap.p_value:.4f}"]


def _named(condition: "Condition") -> str:
    if condition.kind == "clean":
        return "clean"
    return (
        f"{condition.kind} {condition.amount:g}" if condition.perturbs else f"{condition.kind} {condition.amount:.0%}"
    )
