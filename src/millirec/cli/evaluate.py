"""`millirec evaluate`: all figures of a checkpoint or bundle, under both protocols where that is honest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millirec.cli.console import note, print_json, table
from millirec.data.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from millirec.data.dataset import Dataset
    from millirec.models.checkpoint import Provenance
    from millirec.train.evaluate import Evaluation

_SHOWN = {"ndcg@10", "hr@10", "recall@20", "precision@10", "f1@10", "map@10", "mrr"}
_SHOWN |= {"coverage@10", "gini@10", "novelty@10", "popularity_bias@10"}


def evaluate(
    artifact: Annotated[Path, typer.Argument(help="A checkpoint or a bundle.", metavar="CHECKPOINT_OR_BUNDLE")],
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A run's TOML that says where the data is now.")
    ] = None,
    part: Annotated[str, typer.Option(help="Which part to measure: test or validation.")] = "test",
    all_metrics: Annotated[bool, typer.Option("--all", help="Print every metric at every k.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Measure on held-out events, the whole catalogue ranked, with 95 % bootstrap intervals.

    A checkpoint is measured through its network, a bundle through the engine that serves it (its lists end at
    100, so its `mrr` ends there too). A protocol whose test events the model has learned from is refused.
    """
    if part not in ("test", "validation"):
        raise ConfigError(f"--part {part}", "use test or validation")
    results = _evaluate(artifact, config, part)
    if json:
        print_json(results)
        return
    for result in results:
        rows = figure_rows(result, everything=all_metrics)
        title = f"{part}: {result.protocol}, {result.n_targets:,} targets"
        table(title, ["metric", "value", "95 % interval"], rows)
        if result.n_repeats or result.n_cold:
            note(f"no targets: {result.n_repeats:,} repeats of seen items, {result.n_cold:,} events without a history")


def figure_rows(result: "Evaluation", *, everything: bool = False) -> list[list[str]]:
    """Rows for a table: metric, value, interval."""
    rows = []
    for name, figure in result.figures.items():
        if everything or name in _SHOWN:
            interval = "" if figure.low is None else f"{figure.low:.4f} to {figure.high:.4f}"
            rows.append([name, f"{figure.value:.4f}", interval])
    return rows


def _evaluate(artifact: Path, config: Path | None, part: str) -> "list[Evaluation]":
    from millirec.data.dataset import TEST, VALIDATION

    provenance, repeats = _provenance(artifact)
    dataset = _data(provenance, config)
    role = TEST if part == "test" else VALIDATION
    results = []
    for name, split in (("own protocol", dataset), ("other protocol", _other_protocol(dataset))):
        if split is None:
            note(_REFUSED)
            continue
        note(f"{name}: {split.protocol}")
        results.append(_measure(artifact, split, role, repeats=repeats))
    return results


_REFUSED = (
    "other protocol: refused, since the model has learned from events that are newer than that protocol's cut; "
    "to measure it, train with \\[split] kind = 'global-time'"
)


def _provenance(artifact: Path) -> "tuple[Provenance, bool]":
    """Where the artifact's data came from, and whether its lists may repeat seen items."""
    import msgspec

    from millirec.bundle import open_bundle
    from millirec.models.checkpoint import Checkpoint, Provenance

    if (artifact / "manifest.json").exists():
        manifest = open_bundle(artifact).manifest
        lineage = [step.settings for step in manifest.lineage]
        provenance = msgspec.convert(msgspec.to_builtins(manifest.provenance), Provenance)
    elif (artifact / "checkpoint.json").exists():
        checkpoint = Checkpoint.load(artifact)
        lineage, provenance = [step.settings for step in checkpoint.lineage], checkpoint.provenance
    else:
        raise ArtifactError(f"{artifact}: neither a checkpoint nor a bundle", "give the folder that holds it")
    return provenance, any(settings.get("repeats") is True for settings in lineage)


def _data(provenance: "Provenance", config: Path | None) -> "Dataset":
    from millirec.config import convert, load
    from millirec.data.sources import SourceConfig, read
    from millirec.data.split import SplitConfig, split

    if config is not None:
        source = load(config).data
    elif provenance.source:
        source = convert(provenance.source, SourceConfig, "provenance.source")
    else:
        raise ConfigError("the artifact does not say where its data is", "give -c run.toml")
    dataset = read(source)
    if dataset.protocol == "none":
        dataset = split(dataset, convert(provenance.split, SplitConfig, "provenance.split"))
    if dataset.fingerprint != provenance.fingerprint:
        raise ArtifactError(
            "the data is not what the model was trained on (another fingerprint): its split could leak",
            "point -c at the same log, or train again on this one",
        )
    return dataset


def _other_protocol(dataset: "Dataset") -> "Dataset | None":
    """The second protocol, kept to targets that the model has not learned from; None when that cannot be."""
    import numpy as np

    from millirec.data.dataset import CONTEXT, TEST, TRAIN
    from millirec.data.split import LeaveLastOut, split

    if not dataset.protocol.startswith("global-time"):
        return None
    other = split(dataset.with_roles(np.zeros_like(dataset.roles), "none"), LeaveLastOut())
    roles = np.where(dataset.roles == TRAIN, TRAIN, np.where(other.roles == TEST, dataset.roles, CONTEXT))
    return dataset.with_roles(roles.astype(np.uint8), f"{other.protocol}, users whose last event follows the cut")


def _measure(artifact: Path, dataset: "Dataset", role: int, *, repeats: bool) -> "Evaluation":
    from millirec.models.checkpoint import Checkpoint
    from millirec.train.evaluate import evaluate as evaluate_checkpoint

    if (artifact / "checkpoint.json").exists():
        return evaluate_checkpoint(Checkpoint.load(artifact), dataset, role, repeats=repeats)
    return _measure_bundle(artifact, dataset, role, repeats=repeats)


def _measure_bundle(artifact: Path, dataset: "Dataset", role: int, *, repeats: bool) -> "Evaluation":
    import numpy as np

    from millirec.bundle import open_bundle
    from millirec.engine.engine import Engine
    from millirec.engine.state import StateStore
    from millirec.frontier.replay import replay
    from millirec.train.evaluate import Ranks, summarised

    bundle = open_bundle(artifact)
    with StateStore.temporary() as store:
        engine = Engine(bundle, store)
        seen = replay(engine, dataset, role, repeats=repeats)
    note("engine: p50 {:.0f} us, p99 {:.0f} us an answer".format(*np.percentile(seen.microseconds, [50, 99])))
    ranks = Ranks(seen.ranks, seen.top, np.empty(0, np.int32), seen.n_repeats, seen.n_cold)
    return summarised(ranks, dataset.protocol, bundle.popularity, repeats=repeats)
