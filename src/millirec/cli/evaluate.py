"""`millirec evaluate`: all figures of checkpoints and bundles, under both protocols where that is honest."""

from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millirec.cli.artifact import Artifact, alike
from millirec.cli.console import note, print_json, table
from millirec.cli.ranker import evaluate_rankers, rankers_among
from millirec.data.errors import ConfigError

if TYPE_CHECKING:
    from millirec.data.audit import Leak
    from millirec.data.dataset import Dataset
    from millirec.data.split import Targets
    from millirec.metrics.summary import Figure
    from millirec.train.compare import Contrast
    from millirec.train.evaluate import Evaluation, Ranks

_SHOWN = {"ndcg@10", "hr@10", "recall@20", "precision@10", "f1@10", "map@10", "mrr"}
_SHOWN |= {"coverage@10", "gini@10", "novelty@10", "popularity_bias@10"}
_REFUSED = (
    "other protocol: refused, since the model has learned from events that are newer than that protocol's cut; "
    "to measure it, train with \\[split] kind = 'global-time'"
)
_MIXTURES = ("equal", "fitted")
_FUSIONS = {"sum": "fitted", "reciprocal-rank": "reciprocal-rank", "stacked": "stacked"}
_TIMED = "the time of each request is known to the models, as it is to a server"


def evaluate(
    artifacts: Annotated[list[Path], typer.Argument(help="Checkpoints or bundles.", metavar="CHECKPOINT_OR_BUNDLE...")],
    compare: Annotated[
        bool, typer.Option("--compare", help="Two or more on the same targets: paired differences, p-values.")
    ] = False,
    ensemble: Annotated[
        str | None,
        typer.Option(
            metavar="equal|fitted|sum|reciprocal-rank|stacked",
            help="Compare also the mixture of the checkpoints, equal or as fits the validation part best; or what a "
            "bundle of them answers: sum (weights fitted), reciprocal-rank, stacked.",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="A run's TOML that says where the data is now.")
    ] = None,
    part: Annotated[str, typer.Option(help="Which part to measure: test or validation.")] = "test",
    all_metrics: Annotated[bool, typer.Option("--all", help="Print every metric at every k.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Measure on held-out events, the whole catalogue ranked, popularity beside, with 95 % bootstrap intervals.

    Rankers are measured on held-out rows: AUC, log loss, calibration.

    A checkpoint is measured through its network, a bundle through the engine that serves it (its lists end at
    100, so its `mrr` ends there too). A protocol whose test events the model has learned from is refused, and so
    is a comparison of models that were trained on different data or splits.
    """
    if part not in ("test", "validation"):
        raise ConfigError(f"--part {part}", "use test or validation")
    if rankers_among(artifacts):
        if ensemble is not None:
            raise ConfigError("--ensemble of rankers", "leave it out, or give checkpoints of models")
        evaluate_rankers(artifacts, config, part, compare=compare, json=json)
        return
    opened = [Artifact.open(path) for path in artifacts]
    if ensemble is not None:
        _check_ensemble(opened, ensemble, part)
    if compare or ensemble is not None:
        _compare(opened, config, part, ensemble, json=json)
        return
    results = [result for artifact in opened for result in _evaluate(artifact, config, part)]
    if json:
        print_json(results)
        return
    for result in results:
        _show(result, part, everything=all_metrics)


def figure_rows(result: "Evaluation", *, everything: bool = False) -> list[list[str]]:
    """Rows for a table: metric, value, interval, and what popularity reaches."""
    rows = []
    for name, figure in result.figures.items():
        if everything or name in _SHOWN:
            rows.append([name, f"{figure.value:.4f}", _interval(figure), f"{result.popularity[name].value:.4f}"])
    return rows


FIGURE_COLUMNS = ["metric", "value", "95 % interval", "popularity"]


def report_leaks(leaks: "list[Leak]") -> None:
    """A line for each leak of a split."""
    for leak in leaks:
        note(f"[yellow]leak:[/yellow] {leak.kind}: {leak.explanation} ({leak.count} times, such as {leak.example})")


def _interval(figure: "Figure") -> str:
    return "" if figure.low is None else f"{figure.low:.4f} to {figure.high:.4f}"


def _show(result: "Evaluation", part: str, *, everything: bool) -> None:
    report_leaks(result.leaks)
    title = f"{part}: {result.protocol}, {result.n_targets:,} targets of {result.n_users:,} users"
    table(title, FIGURE_COLUMNS, figure_rows(result, everything=everything))
    if result.n_repeats or result.n_cold:
        note(f"no targets: {result.n_repeats:,} repeats of seen items, {result.n_cold:,} events without a history")
    note(_TIMED)


def _role(part: str) -> int:
    from millirec.data.dataset import TEST, VALIDATION

    return TEST if part == "test" else VALIDATION


def _protocols(dataset: "Dataset") -> "list[Dataset]":
    """The data under its own protocol, and under the other one where that is honest."""
    other = _other_protocol(dataset)
    if other is None:
        note(_REFUSED)
    return [dataset] if other is None else [dataset, other]


def _evaluate(artifact: Artifact, config: Path | None, part: str) -> "list[Evaluation]":
    from millirec.data.split import targets
    from millirec.train.evaluate import summarised

    results = []
    for dataset in _protocols(artifact.data(config)):
        note(f"{artifact.path}: {dataset.protocol}")
        asked = targets(dataset, _role(part), repeats=artifact.repeats)
        ranks, popularity = artifact.rank(dataset, _role(part), asked)
        results.append(summarised(ranks, dataset, asked, popularity, repeats=artifact.repeats))
    return results


def _check_ensemble(artifacts: list[Artifact], ensemble: str, part: str) -> None:
    if ensemble not in _MIXTURES and ensemble not in _FUSIONS:
        ways = ", ".join([*_MIXTURES, *_FUSIONS])
        raise ConfigError(f"--ensemble {ensemble}", f"use one of {ways}")
    if len(artifacts) < 2:
        raise ConfigError("--ensemble with one artifact", "give two or more")
    bundles = [str(artifact.path) for artifact in artifacts if artifact.bundled]
    if bundles:
        raise ConfigError(f"--ensemble: {bundles[0]} is a bundle, which gives lists only", "give checkpoints")
    if ensemble not in ("equal", "reciprocal-rank") and part == "validation":
        raise ConfigError(
            f"--ensemble {ensemble} --part validation measures weights on what they were fitted to",
            "measure the test part",
        )


def _compare(artifacts: list[Artifact], config: Path | None, part: str, ensemble: str | None, *, json: bool) -> None:
    if len(artifacts) < 2:
        raise ConfigError("--compare with one artifact", "give two or more")
    alike(artifacts)
    results = [_compared(artifacts, dataset, part, ensemble) for dataset in _protocols(artifacts[0].data(config))]
    if json:
        print_json(results)
        return
    for result in results:
        _show_compared(result, part)


def _compared(artifacts: list[Artifact], dataset: "Dataset", part: str, ensemble: str | None) -> dict[str, Any]:
    """Figures of each, and of their ensemble, and the contrasts of all pairs, under one protocol."""
    from millirec.data.split import targets
    from millirec.train.compare import contrasts
    from millirec.train.evaluate import summarised

    repeats = artifacts[0].repeats
    asked = targets(dataset, _role(part), repeats=repeats)
    mixed = None if ensemble is None else _mixed(artifacts, dataset, asked, ensemble)
    ranked = [artifact.rank(dataset, _role(part), asked) for artifact in artifacts]
    ranks = [own for own, _ in ranked]
    if any(artifact.bundled for artifact in artifacts):
        ranks = [_as_shown(own, len(dataset.items)) for own in ranks]
    names = [str(artifact.path) for artifact in artifacts]
    if mixed is not None:
        ranks, ranked, names = [*ranks, mixed[0]], [*ranked, ranked[0]], [*names, mixed[1]]
    evaluations = [
        summarised(own, dataset, asked, counts, repeats=repeats) for own, (_, counts) in zip(ranks, ranked, strict=True)
    ]
    differences = contrasts(names, [own.ranks for own in ranks], ranks[0].users)
    return {
        "protocol": dataset.protocol,
        "artifacts": names,
        "evaluations": evaluations,
        "differences": differences,
    }


def _mixed(artifacts: list[Artifact], dataset: "Dataset", asked: "Targets", mixing: str) -> "tuple[Ranks, str]":
    """The ranks of the ensemble, and a name that tells its weights."""
    from millirec.models.checkpoint import Checkpoint
    from millirec.models.fusion import Stacked
    from millirec.train.ensemble import Ensemble, fitted_weights
    from millirec.train.evaluate import rank_targets
    from millirec.train.fusion import Fused, fit

    members, repeats = [Checkpoint.load(artifact.path) for artifact in artifacts], artifacts[0].repeats
    model: Ensemble | Fused
    if mixing in _MIXTURES:
        model = Ensemble(members)
        if mixing == "fitted":
            model = Ensemble(members, fitted_weights(model, dataset, repeats=repeats))
        weights = model.weights.tolist()
    else:
        model = Fused(members, fit(members, _FUSIONS[mixing], dataset, repeats=repeats))
        how = model.fusion.how
        weights = [*model.fusion.shares, *(how.ranks if isinstance(how, Stacked) else ())]
    ranks = rank_targets(model, dataset, asked, model.max_length, keep_seen=repeats)
    return ranks, "ensemble, {} weights {}".format(mixing, " ".join(f"{weight:.3f}" for weight in weights))


def _as_shown(ranks: "Ranks", n_items: int) -> "Ranks":
    """A bundle's lists end, and what it does not show is last: networks beside it are held to the same rule."""
    from dataclasses import replace

    import numpy as np

    from millirec.frontier.replay import K

    return replace(ranks, ranks=np.where(ranks.ranks > min(K, n_items), n_items, ranks.ranks))


def _show_compared(result: dict[str, Any], part: str) -> None:
    from millirec.train.compare import METRICS

    evaluations: list[Evaluation] = result["evaluations"]
    report_leaks(evaluations[0].leaks)
    letters = dict(zip(result["artifacts"], ascii_uppercase, strict=False))  # paths are long
    rows = [
        [
            letters.get(name, name),
            *(f"{e.figures[metric].value:.4f} ({_interval(e.figures[metric])})" for metric in METRICS),
        ]
        for name, e in zip(result["artifacts"], evaluations, strict=True)
    ]
    beside = evaluations[0].popularity
    rows.append(["popularity", *(f"{beside[m].value:.4f} ({_interval(beside[m])})" for m in METRICS)])
    first = evaluations[0]
    title = f"{part}: {result['protocol']}, {first.n_targets:,} targets of {first.n_users:,} users"
    for name, letter in letters.items():
        note(f"{letter} = {name}")
    table(title, ["", *METRICS], rows)
    columns = ["a - b", "metric", "difference", "95 % interval", "p", "p (Holm)"]
    table("paired differences", columns, [_contrast_row(contrast, letters) for contrast in result["differences"]])
    note(_TIMED)


def _contrast_row(found: "Contrast", letters: dict[str, str]) -> list[str]:
    interval = f"{found.low:+.4f} to {found.high:+.4f}"
    pair = f"{letters.get(found.a, found.a)} - {letters.get(found.b, found.b)}"
    return [pair, found.metric, f"{found.difference:+.4f}", interval, f"{found.p_value:.4f}", f"{found.p_holm:.4f}"]


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
