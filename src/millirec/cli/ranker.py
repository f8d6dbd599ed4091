"""`millirec train` and `millirec evaluate` for feature rankers."""

from itertools import combinations
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from millirec.cli.console import TrainingBar, note, print_json, table
from millirec.data.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from millirec.config import RankerRun
    from millirec.data.dataset import Dataset
    from millirec.models.rankers.checkpoint import RankerCheckpoint
    from millirec.train.evaluate_ranker import RankerEvaluation


def train_ranker(run: "RankerRun", folder: Path, on_error: str, *, resume: bool, json: bool) -> None:
    """Train and measure; writes run.toml, checkpoint and metrics.json into `folder`."""
    from millirec.cli.train import read_log
    from millirec.data.features import split_rows
    from millirec.data.labels import labels_of

    folder.mkdir(parents=True, exist_ok=True)
    dataset = read_log(run.data, folder, on_error)
    dataset = split_rows(dataset, labels_of(dataset, run.label), run.split)
    note(f"{len(dataset.interactions):,} events, {len(dataset.users):,} users, {len(dataset.items):,} items")
    metrics = learn_ranker(run, dataset, folder, resume=resume)
    if json:
        print_json(metrics)
        return
    _show(metrics["test"], "test")
    note(f"trained in {metrics['seconds']:.0f} s; checkpoint: {folder / 'checkpoint'}")


def learn_ranker(run: "RankerRun", dataset: "Dataset", folder: Path, *, resume: bool) -> dict[str, Any]:
    """Train on a split log; returns the metrics."""
    import msgspec

    from millirec.config import dumps
    from millirec.train.evaluate_ranker import evaluate_rows
    from millirec.train.fit_ranker import fit_ranker
    from millirec.train.journal import TensorBoard

    (folder / "run.toml").write_text(dumps(run), encoding="utf-8")
    with TrainingBar() as bar:
        journal = TensorBoard(folder / "tensorboard", bar)
        what = (dataset, run.label, run.features, run.ranker, run.train, run.machine, journal)
        checkpoint, rows = fit_ranker(*what, progress=folder / "progress", resume=resume)
    settings = {"source": msgspec.to_builtins(run.data), "split": msgspec.to_builtins(run.split)}
    checkpoint = checkpoint.with_provenance(msgspec.structs.replace(checkpoint.provenance, **settings))
    checkpoint.save(folder / "checkpoint")
    metrics = {
        "ranker": msgspec.to_builtins(run.ranker),
        "validation": checkpoint.metrics,
        "test": evaluate_rows(checkpoint, rows, dataset.protocol),
        "seconds": checkpoint.lineage[-1].seconds,
    }
    (folder / "metrics.json").write_bytes(msgspec.json.format(msgspec.json.encode(metrics), indent=1))
    return metrics


def rankers_among(paths: list[Path]) -> bool:
    """Whether these artifacts are rankers. Raises ConfigError for a mixture: they answer other questions."""
    found = [(path / "ranker.json").exists() for path in paths]
    if any(found) and not all(found):
        raise ConfigError(
            f"{paths[found.index(True)]}: a ranker among other artifacts", "measure rankers by themselves"
        )
    return all(found)


def evaluate_rankers(paths: list[Path], config: Path | None, part: str, *, compare: bool, json: bool) -> None:
    """The figures of each; with `compare`, the paired differences of their log losses on the same rows."""
    from millirec.data.dataset import TEST, VALIDATION
    from millirec.models.rankers.checkpoint import RankerCheckpoint
    from millirec.train.evaluate_ranker import evaluate_ranker

    if compare and len(paths) < 2:
        raise ConfigError("--compare with one artifact", "give two or more")
    role = TEST if part == "test" else VALIDATION
    rankers = [RankerCheckpoint.load(path) for path in paths]
    datasets = [data_of(ranker, config) for ranker in rankers]
    results = [evaluate_ranker(ranker, data, role) for ranker, data in zip(rankers, datasets, strict=True)]
    differences = _differences(paths, rankers, datasets, role) if compare else []
    if json:
        print_json({"evaluations": results, "differences": differences} if compare else results)
        return
    for path, result in zip(paths, results, strict=True):
        note(str(path))
        _show(result, part)
    if compare:
        _show_differences(paths, differences)


def data_of(ranker: "RankerCheckpoint", config: Path | None) -> "Dataset":
    """The data that it was trained on, split as then; read where `config` says, else where it was."""
    from millirec.config import RankerRun, convert, load_run
    from millirec.data.features import RowSplit, split_rows
    from millirec.data.labels import labels_of
    from millirec.data.sources import SourceConfig, read

    known = ranker.provenance
    if config is None and not known.source:
        raise ConfigError("the ranker does not say where its data is", "give -c run.toml")
    run = None if config is None else load_run(config)
    if run is not None and not isinstance(run, RankerRun):
        raise ConfigError(f"{config}: has no [ranker]", "give the config of a ranker")
    dataset = read(run.data if run else convert(known.source, SourceConfig, "provenance.source"))
    split = convert(known.split, RowSplit, "provenance.split") if run is None or known.split else run.split
    dataset = split_rows(dataset, labels_of(dataset, ranker.label), split)
    if (dataset.fingerprint, dataset.protocol) != (known.fingerprint, known.protocol):
        raise ArtifactError(
            "the data or its split is not what the ranker was trained on: its rows could leak",
            "point to the same log, or train again on this one",
        )
    return dataset


def _differences(
    paths: list[Path], rankers: "list[RankerCheckpoint]", datasets: "list[Dataset]", role: int
) -> list[dict[str, Any]]:
    """Of each pair, the first's log loss less the second's, by paired bootstrap and permutation over users."""
    from millirec.data.features import ranking_rows
    from millirec.data.labels import labels_of
    from millirec.metrics.bootstrap import paired_difference
    from millirec.metrics.ctr_summary import losses

    first = rankers[0]
    found = []
    for path, ranker, dataset in zip(paths, rankers, datasets, strict=True):
        same = (ranker.provenance.fingerprint, ranker.provenance.protocol, ranker.label)
        if same != (first.provenance.fingerprint, first.provenance.protocol, first.label):
            raise ArtifactError(f"{paths[0]} and {path} cannot be compared", "train both on the same data and split")
        rows, _ = ranking_rows(dataset, labels_of(dataset, ranker.label), ranker.featuriser)
        part = rows.part(role)
        chances = ranker.chances(rows.features.take(part))
        found.append(losses(rows.labels[part], chances))
        users = rows.users[part]
    out = []
    for (a, one), (b, other) in combinations(zip(map(str, paths), found, strict=True), 2):
        gap = paired_difference(one, other, groups=users)
        out.append({"a": a, "b": b, "metric": "log_loss", "difference": gap.mean, **gap._asdict()})
        out[-1].pop("mean")
    return out


_COLUMNS = ["metric", "value", "95 % interval", "uncalibrated"]


def _show(result: "RankerEvaluation", part: str) -> None:
    rows = []
    for name, figure in result.figures.items():
        interval = "" if figure.low is None else f"{figure.low:.4f} to {figure.high:.4f}"
        plain = result.uncalibrated.get(name)
        rows.append([name, f"{figure.value:.4f}", interval, "" if plain is None else f"{plain:.4f}"])
    table(f"{part}: {result.protocol}, {result.n_rows:,} rows of {result.n_users:,} users", _COLUMNS, rows)
    note(f"successes {result.base_rate:.4f}; log loss of always answering their share {result.constant_log_loss:.4f}")


def _show_differences(paths: list[Path], differences: list[dict[str, Any]]) -> None:
    letters = dict(zip(map(str, paths), ascii_uppercase, strict=False))  # paths are long
    for name, letter in letters.items():
        note(f"{letter} = {name}")
    rows = [
        [
            f"{letters.get(gap['a'], gap['a'])} - {letters.get(gap['b'], gap['b'])}",
            f"{gap['difference']:+.4f}",
            f"{gap['low']:+.4f} to {gap['high']:+.4f}",
            f"{gap['p_value']:.4f}",
        ]
        for gap in differences
    ]
    table("paired differences of log loss", ["a - b", "difference", "95 % interval", "p"], rows)
