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
    from millirec.data.features import RankingRows, RowSplit
    from millirec.data.labels import LabelConfig
    from millirec.data.sources import SourceConfig
    from millirec.metrics.summary import Figure
    from millirec.models.checkpoint import Checkpoint
    from millirec.models.rankers.checkpoint import RankerCheckpoint
    from millirec.train.evaluate_ranker import RankerEvaluation


def train_ranker(run: "RankerRun", folder: Path, on_error: str, *, resume: bool, json: bool) -> None:
    """Train and measure; writes run.toml, checkpoint and metrics.json into `folder`."""
    from millirec.cli.train import read_log
    from millirec.models.checkpoint import Checkpoint

    retrieval = None if run.retrieval is None else Checkpoint.load(Path(run.retrieval))
    folder.mkdir(parents=True, exist_ok=True)
    dataset = _split(read_log(run.data, folder, on_error), run.label, run.split, of_rows=retrieval is None)
    if retrieval is not None:
        _check_alike(run, dataset, retrieval)
    note(f"{len(dataset.interactions):,} events, {len(dataset.users):,} users, {len(dataset.items):,} items")
    metrics = _learn(run, dataset, retrieval, folder, resume=resume)
    if json:
        print_json(metrics)
        return
    _show(metrics["test"], "test")
    note(f"trained in {metrics['seconds']:.0f} s; checkpoint: {folder / 'checkpoint'}")
    if run.retrieval is not None:
        note(f"both stages in one bundle: millirec pack {run.retrieval} --ranker {folder / 'checkpoint'} -o BUNDLE")


def _split(dataset: "Dataset", label: "LabelConfig", config: "RowSplit", *, of_rows: bool) -> "Dataset":
    """Split for a ranker of the log's rows, or as a sequence model's data is."""
    from millirec.data.features import split_rows
    from millirec.data.labels import labels_of
    from millirec.data.split import GlobalTime, split

    if of_rows:
        return split_rows(dataset, labels_of(dataset, label), config)
    assert isinstance(config, GlobalTime)  # noqa: S101
    return split(dataset, config)


def _check_alike(run: "RankerRun", dataset: "Dataset", retrieval: "Checkpoint") -> None:
    """Raises ArtifactError when the model could have learned from what it is asked for."""
    from millirec.train.candidates import check_retrieval

    check_retrieval(retrieval, dataset, f"$.retrieval = {run.retrieval!r}")


def _learn(
    run: "RankerRun", dataset: "Dataset", retrieval: "Checkpoint | None", folder: Path, *, resume: bool
) -> dict[str, Any]:
    """Train on a split log; returns the metrics."""
    import msgspec

    from millirec.config import dumps
    from millirec.train.candidates import CandidateConfig
    from millirec.train.evaluate_ranker import evaluate_rows
    from millirec.train.fit_ranker import RankerPlan, fit_ranker
    from millirec.train.journal import TensorBoard

    (folder / "run.toml").write_text(dumps(run), encoding="utf-8")
    with TrainingBar() as bar:
        journal = TensorBoard(folder / "tensorboard", bar)
        plan = RankerPlan(
            label=run.label,
            features=run.features,
            ranker=run.ranker,
            train=run.train,
            machine=run.machine,
            candidates=run.candidates or CandidateConfig(),
        )
        progress = folder / "progress"
        checkpoint, rows = fit_ranker(dataset, plan, journal, retrieval=retrieval, progress=progress, resume=resume)
    settings = {"source": msgspec.to_builtins(run.data), "split": msgspec.to_builtins(run.split)}
    settings["retrieval"] = run.retrieval or ""
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
    from millirec.models.rankers.checkpoint import is_ranker

    found = [is_ranker(path) for path in paths]
    if any(found) and not all(found):
        raise ConfigError(
            f"{paths[found.index(True)]}: a ranker among other artifacts", "measure rankers by themselves"
        )
    return all(found)


def evaluate_rankers(paths: list[Path], config: Path | None, part: str, *, compare: bool, json: bool) -> None:
    """The figures of each; with `compare`, the paired differences of their log losses on the same rows."""
    from millirec.data.dataset import TEST, VALIDATION
    from millirec.models.rankers.checkpoint import RankerCheckpoint
    from millirec.train.evaluate_ranker import evaluate_rows

    if compare and len(paths) < 2:
        raise ConfigError("--compare with one artifact", "give two or more")
    role = TEST if part == "test" else VALIDATION
    rankers = [RankerCheckpoint.load(path) for path in paths]
    found = [rows_of_ranker(ranker, config) for ranker in rankers]
    results = [
        evaluate_rows(ranker, rows, ranker.provenance.protocol, role)
        for ranker, rows in zip(rankers, found, strict=True)
    ]
    differences = _differences(paths, rankers, found, role) if compare else []
    if json:
        print_json({"evaluations": results, "differences": differences} if compare else results)
        return
    for path, result in zip(paths, results, strict=True):
        note(str(path))
        _show(result, part)
    if compare:
        _show_differences(paths, differences)


def data_of_ranker(ranker: "RankerCheckpoint", config: Path | None) -> "Dataset":
    """The data that it was trained on, split as then; read where `config` says, else where it was."""
    from millirec.config import RankerRun, load_run

    if config is None:
        return read_for_ranker(ranker, None, None)
    run = load_run(config)
    if not isinstance(run, RankerRun):
        raise ConfigError(f"{config}: has no [ranker]", "give the config of a ranker")
    return read_for_ranker(ranker, run.data, None if ranker.provenance.split else run.split)


def rows_of_ranker(ranker: "RankerCheckpoint", config: Path | None) -> "RankingRows":
    """Its rows, of all parts, made again; see `data_of_ranker`."""
    from millirec.train.evaluate_ranker import rows_of

    retrieval = retrieval_of_ranker(ranker, config)
    return rows_of(ranker, data_of_ranker(ranker, config), retrieval)


def retrieval_of_ranker(ranker: "RankerCheckpoint", config: Path | None) -> "Checkpoint | None":
    """The model whose candidates a ranker has learned from, where `config` says, else where it was; None = none.

    Raises ArtifactError when it is another one.
    """
    from millirec.config import RankerRun, load_run
    from millirec.models.checkpoint import Checkpoint
    from millirec.train.candidates import candidates_of, retrieval_of

    if candidates_of(ranker) is None:
        return None
    run = None if config is None else load_run(config)
    where = (run.retrieval if isinstance(run, RankerRun) else None) or ranker.provenance.retrieval
    if not where:
        return None
    model, known = Checkpoint.load(Path(where)), retrieval_of(ranker)
    if known is not None and model.content_hash != known:
        raise ArtifactError(f"{where} is not the model whose candidates the ranker has learned from", _OTHER)
    return model


_OTHER = "name the right checkpoint as $.retrieval in -c run.toml, or train the ranker again"


def read_for_ranker(ranker: "RankerCheckpoint", source: "SourceConfig | None", split: "RowSplit | None") -> "Dataset":
    """The data that it was trained on, split as then; `source` and `split` where they are told otherwise."""
    from millirec.config import convert
    from millirec.data.features import RowSplit
    from millirec.data.sources import SourceConfig, read
    from millirec.train.candidates import candidates_of

    known = ranker.provenance
    if source is None and not known.source:
        raise ConfigError("the ranker does not say where its data is", "give -c run.toml")
    dataset = read(source or convert(known.source, SourceConfig, "provenance.source"))
    split = split or convert(known.split, RowSplit, "provenance.split")
    dataset = _split(dataset, ranker.label, split, of_rows=candidates_of(ranker) is None)
    if (dataset.fingerprint, dataset.protocol) != (known.fingerprint, known.protocol):
        raise ArtifactError(
            "the data or its split is not what the ranker was trained on: its rows could leak",
            "point to the same log, or train again on this one",
        )
    return dataset


def _differences(
    paths: list[Path], rankers: "list[RankerCheckpoint]", made: "list[RankingRows]", role: int
) -> list[dict[str, Any]]:
    """Of each pair, the first's log loss less the second's, by paired bootstrap and permutation over users."""
    from millirec.metrics.bootstrap import paired_difference
    from millirec.metrics.ctr_summary import losses

    found = []
    for path, ranker, rows in zip(paths, rankers, made, strict=True):
        if _asked(ranker) != _asked(rankers[0]):
            raise ArtifactError(f"{paths[0]} and {path} cannot be compared", "train both on the same data and split")
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


def _asked(ranker: "RankerCheckpoint") -> tuple[object, ...]:
    """What decides the rows that a ranker is measured on."""
    from millirec.train.candidates import candidates_of, retrieval_of

    known = ranker.provenance
    return known.fingerprint, known.protocol, ranker.label, candidates_of(ranker), retrieval_of(ranker)


_COLUMNS = ["metric", "value", "95 % interval", "uncalibrated"]


def _show(result: "RankerEvaluation", part: str) -> None:
    rows = []
    for name, figure in result.figures.items():
        interval = "" if figure.low is None else f"{figure.low:.4f} to {figure.high:.4f}"
        plain = result.uncalibrated.get(name)
        rows.append([name, f"{figure.value:.4f}", interval, "" if plain is None else f"{plain:.4f}"])
    table(f"{part}: {result.protocol}, {result.n_rows:,} rows of {result.n_users:,} users", _COLUMNS, rows)
    tasks = [
        [task, *(_with_interval(figures.get(name)) for name in ("served_auc", "auc", "log_loss"))]
        for task, figures in result.tasks.items()
    ]
    if tasks:
        table("tasks", ["", "AUC of the served score", "AUC of its own", "log loss of its own"], tasks)
    note(f"successes {result.base_rate:.4f}; log loss of always answering their share {result.constant_log_loss:.4f}")


def _with_interval(figure: "Figure | None") -> str:
    if figure is None:
        return ""
    return f"{figure.value:.4f} ({figure.low:.4f} to {figure.high:.4f})"


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
