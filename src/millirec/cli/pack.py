"""`millirec pack`: a checkpoint, or a graph from elsewhere, becomes what is deployed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from millirec.cli.console import note, print_json, table
from millirec.cli.engine import cascade_config
from millirec.cli.foreign import ForeignOptions, pack_foreign
from millirec.cli.parts import RankerOptions, beside_of, fusion_of, rankers_of
from millirec.data.errors import ConfigError

if TYPE_CHECKING:
    from millirec.bundle import Bundle, Manifest, PackConfig


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
            help="A markov, item-knn or vmis-knn checkpoint of the same data, whose votes add to the network's scores "
            "as suits the validation part best; may be given several times.",
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
    from millirec.bundle import pack as make
    from millirec.bundle import pack_ensemble

    config = _config(name, index, features, cascade)
    foreign = ForeignOptions(ids, vectors, max_length, quantize)
    rankers = RankerOptions(ranker, pre_ranker, ranker_weights, facts)
    others = beside or []
    _check(models, weights, others, rankers, foreign)
    if models[0].suffix == ".onnx":
        packed = pack_foreign(models[0], bundle, config, foreign)
    else:
        from millirec.models.checkpoint import Checkpoint

        ranked = rankers_of(rankers, config_file)
        checkpoints = [Checkpoint.load(model) for model in models]
        if len(models) == 1:
            packed = make(checkpoints[0], bundle, config, ranked, beside_of(models[0], others, config_file))
        else:
            fusion = fusion_of(models, checkpoints, weights or "fitted", config_file)
            packed = pack_ensemble(checkpoints, fusion.shares, bundle, config, ranked, fusion.how)
    _show(packed, bundle, json=json)


def _config(name: str | None, index: str, features: str | None, cascade: Path | None) -> "PackConfig":
    """What goes for any bundle. Raises ConfigError for an index that there is not, or a cascade that is wrong."""
    from millirec.bundle import PackConfig
    from millirec.cascade.cascade import CascadeConfig
    from millirec.index import ExactConfig, PQConfig

    kinds = {"exact": ExactConfig, "pq": PQConfig}
    if index != "auto" and index not in kinds:
        raise ConfigError(f"--index {index}", "choose auto, exact or pq")
    return PackConfig(
        name=name,
        index=kinds[index]() if index in kinds else "auto",
        cascade=cascade_config(cascade) or CascadeConfig(),
        features=None if features is None else tuple(filter(None, features.split(","))),
    )


def _check(
    models: list[Path], weights: str | None, beside: list[Path], rankers: RankerOptions, foreign: ForeignOptions
) -> None:
    """Raises ConfigError for options that do not go together."""
    files = [model for model in models if model.suffix == ".onnx"]
    is_ranked = rankers.ranker is not None
    if rankers.pre_ranker is not None and not is_ranked:
        raise ConfigError("--pre-ranker without --ranker", "give the ranker whose candidates it chooses")
    if len(models) == 1 and weights is not None:
        raise ConfigError("--weights with one checkpoint", "give two or more, or leave it out")
    if files and len(models) > 1:
        raise ConfigError(f"{files[0]}: an ONNX file among several models", "give checkpoints, or this one alone")
    if files and (is_ranked or beside):
        option = "--beside" if beside else "--ranker"
        raise ConfigError(f"{option} with an ONNX file", "pack the checkpoint of a sequence model")
    if not files and (given := foreign.given()):
        raise ConfigError(f"{given[0]} is for ONNX files", "leave it out for a checkpoint")
    if beside and (len(models) > 1 or is_ranked):
        what = "--ranker" if is_ranked else "several checkpoints"
        raise ConfigError(f"--beside with {what}", "pack one network with what was counted, and no more")


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
