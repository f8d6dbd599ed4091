"""`millirec pack`: a checkpoint, or a graph from elsewhere, becomes what is deployed."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from millirec.cli.console import note, print_json, table
from millirec.cli.engine import cascade_config
from millirec.data.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from millirec.bundle import Beside, Bundle, Manifest, PackConfig, RankerPart
    from millirec.models.checkpoint import Checkpoint
    from millirec.train.fusion import Fusion


def pack(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="The checkpoint's folder, or an ONNX file made elsewhere; several checkpoints become one bundle.",
            metavar="CHECKPOINT|ONNX",
        ),
    ],
    bundle: Annotated[
        Path, typer.Option("--output", "-o", help="The bundle's folder; an older bundle there is replaced.")
    ],
    name: Annotated[
        str | None, typer.Option(help="The model's name in answers; otherwise its kind, such as sasrec.")
    ] = None,
    index: Annotated[
        str, typer.Option(help="auto (by the size of the catalogue), exact, or pq (compressed).")
    ] = "auto",
    features: Annotated[
        str | None, typer.Option(help="Item features that the bundle keeps, with commas between; all when left out.")
    ] = None,
    cascade: Annotated[
        Path | None, typer.Option(help="A TOML file: what is done with a question; see docs/cascade.md.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="fitted|equal|W,W|reciprocal-rank|stacked",
            help="Several checkpoints: the weights of their scores (fitted = as suits the validation part best), or "
            "what is made of their scores and ranks.",
        ),
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="A markov or item-knn checkpoint of the same data, whose counts add to the network's scores as suits "
            "the validation part best; may be given several times.",
        ),
    ] = None,
    ids: Annotated[Path | None, typer.Option(help="ONNX only: item ids, one a line, in the order of rows.")] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="ONNX only: item vectors (.npy), a row of padding, then one for each id.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="ONNX only: how many events the graph reads at most.")] = None,
    quantize: Annotated[str | None, typer.Option(help="ONNX only: int8 computes in integers.")] = None,
    ranker: Annotated[
        Path | None, typer.Option(help="A ranker's checkpoint, to be the second stage; see docs/ranking.md.")
    ] = None,
    pre_ranker: Annotated[
        Path | None, typer.Option(help="A cheaper ranker's checkpoint: it chooses the candidates of the ranker.")
    ] = None,
    ranker_weights: Annotated[
        str, typer.Option(help="fp32, or int8: hidden layers of the rankers in integers.")
    ] = "fp32",
    config_file: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="A run's TOML: where the log is now; a ranker's run with --ranker."),
    ] = None,
    facts: Annotated[
        str,
        typer.Option(help="What the ranker's features know at first: before-test, or all of its training log."),
    ] = "before-test",
    json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Pack a checkpoint for serving: graph, item index, catalogue, and a manifest with every hash.

    An ONNX graph made elsewhere is packed with its item ids and vectors; see docs/bring-your-own.md.
    Several checkpoints answer together, by the weighted sum of their scores or by their ranks; see docs/cascade.md.
    """
    from millirec.bundle import PackConfig, pack_ensemble
    from millirec.bundle import pack as make
    from millirec.cascade.cascade import CascadeConfig
    from millirec.index import ExactConfig, PQConfig

    if pre_ranker is not None and ranker is None:
        raise ConfigError("--pre-ranker without --ranker", "give the ranker whose candidates it chooses")
    kinds = {"exact": ExactConfig, "pq": PQConfig}
    if index != "auto" and index not in kinds:
        raise ConfigError(f"--index {index}", "choose auto, exact or pq")
    config = PackConfig(
        name=name,
        index=kinds[index]() if index in kinds else "auto",
        cascade=cascade_config(cascade) or CascadeConfig(),
        features=None if features is None else tuple(filter(None, features.split(","))),
    )
    foreign = {"--ids": ids, "--vectors": vectors, "--max-length": max_length, "--quantize": quantize}
    if len(models) == 1 and weights is not None:
        raise ConfigError("--weights with one checkpoint", "give two or more, or leave it out")
    if len(models) == 1 and models[0].suffix == ".onnx":
        if ranker is not None or beside:
            option = "--beside" if beside else "--ranker"
            raise ConfigError(f"{option} with an ONNX file", "pack the checkpoint of a sequence model")
        packed = _pack_graph(models[0], bundle, config, foreign)
    else:
        from millirec.models.checkpoint import Checkpoint

        if given := [option for option, value in foreign.items() if value is not None]:
            raise ConfigError(f"{given[0]} is for ONNX files", "leave it out for a checkpoint")
        if files := [model for model in models if model.suffix == ".onnx"]:
            raise ConfigError(f"{files[0]}: an ONNX file among several models", "give checkpoints, or this one alone")
        if beside and (len(models) > 1 or ranker is not None):
            what = "several checkpoints" if ranker is None else "--ranker"
            raise ConfigError(f"--beside with {what}", "pack one network with what was counted, and no more")
        part = None if ranker is None else _ranker_part(ranker, ranker_weights, config_file, facts)
        if part is not None and pre_ranker is not None:
            part = replace(part, pre=_ranker_part(pre_ranker, ranker_weights, config_file, facts))
        checkpoints = [Checkpoint.load(model) for model in models]
        if len(models) == 1:
            packed = make(checkpoints[0], bundle, config, part, _counted(models[0], beside or [], config_file))
        else:
            fusion = _fusion(models, checkpoints, weights or "fitted", config_file)
            packed = pack_ensemble(checkpoints, fusion.shares, bundle, config, part, fusion.how)
    _show(packed, bundle, json=json)


def _counted(network: Path, beside: list[Path], config: Path | None) -> "list[Beside]":
    """What is counted beside a network, with gains that suit the validation part; useless counts are left out."""
    if not beside:
        return []
    from millirec.cli.artifact import Artifact
    from millirec.config import load_run
    from millirec.frontier.beside import fitted_beside
    from millirec.models.checkpoint import Checkpoint

    checkpoint, others = Checkpoint.load(network), [Checkpoint.load(path) for path in beside]
    artifact = Artifact.open(network)
    data = artifact.data_of(None if config is None else load_run(config).data)
    counted, fitted = fitted_beside(checkpoint, others, data, repeats=artifact.repeats)
    told = f"NDCG@10 of {fitted.n_targets:,} validation targets: {fitted.before:.4f} -> {fitted.after:.4f} with counts"
    note(told if fitted.after > fitted.before else f"[yellow]{told}: they do not help[/yellow]")
    for path, gain in zip(beside, fitted.gains, strict=True):
        if gain is None:
            note(f"[yellow]left out, as it adds nothing:[/yellow] {path}")
    return counted


def _fusion(models: list[Path], checkpoints: "list[Checkpoint]", weights: str, config: Path | None) -> "Fusion":
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


def _ranker_part(path: Path, weights: str, config: Path | None, facts: str) -> "RankerPart":
    from millirec.bundle import RankerPart
    from millirec.cli.ranker import data_of_ranker
    from millirec.data.features import known_events
    from millirec.data.labels import labels_of
    from millirec.models.rankers.checkpoint import RankerCheckpoint

    if weights not in ("fp32", "int8"):
        raise ConfigError(f"--ranker-weights {weights}", "choose fp32 or int8")
    if facts not in ("before-test", "all"):
        raise ConfigError(f"--facts {facts}", "choose before-test or all")
    checkpoint = RankerCheckpoint.load(path)
    dataset = data_of_ranker(checkpoint, config)
    known = known_events(dataset, labels_of(dataset, checkpoint.label), test=facts == "all")
    return RankerPart(checkpoint, known, "int8" if weights == "int8" else "fp32")


def _pack_graph(model: Path, folder: Path, config: "PackConfig", given: "Mapping[str, object]") -> "Bundle":
    from millirec.bundle import ForeignConfig, ForeignItems, pack_graph
    from millirec.config import convert

    for option in ("--ids", "--vectors", "--max-length"):
        if given[option] is None:
            raise ConfigError(f"{option} is missing", "an ONNX file does not say it; see docs/bring-your-own.md")
    settings = {"max_length": given["--max-length"], "quantize": given["--quantize"]}
    foreign: ForeignConfig = convert(settings, ForeignConfig, "--quantize")
    items = ForeignItems(*_items(Path(str(given["--ids"])), Path(str(given["--vectors"]))))
    return pack_graph(model, items, folder, foreign, config)


def _items(ids: Path, vectors: Path) -> tuple[Any, Any]:
    """Catalogue and vectors from their files. Raises DataError when one cannot be read."""
    import numpy as np

    from millirec.data.catalog import Catalog, Vocabulary

    try:
        names = ids.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{ids}: cannot be read ({error})", "give item ids as text, one a line") from error
    try:
        array = np.load(vectors, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{vectors}: cannot be read ({error})", "write it with numpy.save, as floats") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise DataError(f"{vectors}: holds no array of floats", "write it with numpy.save, as floats")
    return Catalog(Vocabulary(names)), array


def _fusion_rows(manifest: "Manifest") -> list[list[str]]:
    from millirec.models.fusion import ReciprocalRank, Stacked

    match manifest.fusion:
        case ReciprocalRank(k=k):
            return [["fused by", f"reciprocal ranks, k = {k:g}"]]
        case Stacked(ranks=ranks):
            ordered = zip(manifest.members, ranks, strict=True)
            rows = [[f"weight of the log rank of {member.name}", f"{rank:g}"] for member, rank in ordered]
        case _:
            rows = []
    return [*([f"weight of {member.name}", f"{member.share:g}"] for member in manifest.members), *rows]


def _show(packed: "Bundle", folder: Path, *, json: bool) -> None:
    manifest = packed.manifest
    if json:
        print_json(manifest)
        return
    rows = [
        ["version", packed.version],
        *_fusion_rows(manifest),
        *(
            [f"{one.model['kind']} beside it: weight, floor", f"{one.gain.weight:g}, {one.gain.floor:g}"]
            for one in manifest.counts
        ),
        ["items", f"{manifest.n_items:,}"],
        ["size", f"{packed.bytes / 1e6:.2f} MB"],
        ["graph against network", f"{manifest.parity_error:.1e}"],
        [f"index {type(manifest.index).__struct_config__.tag}, recall@10", f"{manifest.index_recall:.4f}"],
    ]
    for name, told in (("pre-ranker", manifest.pre_ranker), ("ranker", manifest.ranker)):
        if told is not None:
            kind = f"{name} {told.model['kind']}, {told.weights}, against its network"
            rows += [[kind, f"{told.parity_error:.1e}"], ["events that its features know", f"{told.n_events:,}"]]
    table(manifest.name, ["bundle", str(folder)], rows)
    note(f"serve it: millirec serve {folder}")
