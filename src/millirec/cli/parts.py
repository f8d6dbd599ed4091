"""What `millirec pack` puts into a bundle besides one network: counts, weights of several models, rankers."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from millirec.cli.console import busy, note
from millirec.data.errors import ConfigError

if TYPE_CHECKING:
    from millirec.bundle import Beside, RankerPart
    from millirec.models.checkpoint import Checkpoint
    from millirec.train.fusion import Fusion


class RankerOptions(NamedTuple):
    """The options of `pack` that tell of rankers. `weights`: fp32 or int8; `facts`: before-test or all."""

    ranker: Path | None
    pre_ranker: Path | None
    weights: str
    facts: str


def beside_of(network: Path, others: list[Path], config: Path | None) -> "list[Beside]":
    """What is counted beside a network, with gains that suit the validation part; useless counts are left out."""
    if not others:
        return []
    from millirec.cli.artifact import Artifact
    from millirec.config import load_run
    from millirec.frontier.beside import fitted_beside
    from millirec.models.checkpoint import Checkpoint

    checkpoint, baselines = Checkpoint.load(network), [Checkpoint.load(path) for path in others]
    artifact = Artifact.open(network)
    data = artifact.data_of(None if config is None else load_run(config).data)
    with busy("fitting gains on the validation part, some ten seconds to a minute"):
        beside, fitted = fitted_beside(checkpoint, baselines, data, repeats=artifact.repeats)
    told = f"NDCG@10 of {fitted.n_targets:,} validation targets: {fitted.before:.4f} -> {fitted.after:.4f} with counts"
    note(told if fitted.after > fitted.before else f"[yellow]{told}: they do not help[/yellow]")
    for path, gain in zip(others, fitted.gains, strict=True):
        if gain is None:
            note(f"[yellow]left out, as it does not help:[/yellow] {path}")
    return beside


def fusion_of(models: list[Path], checkpoints: "list[Checkpoint]", weights: str, config: Path | None) -> "Fusion":
    """What is made of several models: as given, or fitted to the validation part."""
    from millirec.cli.artifact import Artifact, alike
    from millirec.config import load_run
    from millirec.models.fusion import ReciprocalRank
    from millirec.train.fusion import Fusion, fit

    if weights in ("equal", "reciprocal-rank"):
        return Fusion([1.0] * len(models), ReciprocalRank() if weights == "reciprocal-rank" else None)
    if weights not in ("fitted", "stacked"):
        try:
            return Fusion([float(weight) for weight in weights.split(",")])
        except ValueError as error:
            raise ConfigError(
                f"--weights {weights}", "use fitted, equal, reciprocal-rank, stacked, or numbers with commas between"
            ) from error
    artifacts = [Artifact.open(model) for model in models]
    alike(artifacts)
    data = artifacts[0].data_of(None if config is None else load_run(config).data)
    return fit(checkpoints, weights, data, repeats=artifacts[0].repeats)


def rankers_of(options: RankerOptions, config: Path | None) -> "RankerPart | None":
    """The ranker, with the one before it. Raises ConfigError for options that there are not."""
    if options.ranker is None:
        return None
    if options.weights not in ("fp32", "int8"):
        raise ConfigError(f"--ranker-weights {options.weights}", "choose fp32 or int8")
    if options.facts not in ("before-test", "all"):
        raise ConfigError(f"--facts {options.facts}", "choose before-test or all")
    part = _ranker_part(options.ranker, options, config)
    return part if options.pre_ranker is None else replace(part, pre=_ranker_part(options.pre_ranker, options, config))


def _ranker_part(path: Path, options: RankerOptions, config: Path | None) -> "RankerPart":
    from millirec.bundle import RankerPart
    from millirec.cli.ranker import data_of_ranker
    from millirec.data.features import known_events
    from millirec.data.labels import labels_of
    from millirec.models.rankers.checkpoint import RankerCheckpoint

    checkpoint = RankerCheckpoint.load(path)
    dataset = data_of_ranker(checkpoint, config)
    known = known_events(dataset, labels_of(dataset, checkpoint.label), test=options.facts == "all")
    return RankerPart(checkpoint, known, "int8" if options.weights == "int8" else "fp32")
