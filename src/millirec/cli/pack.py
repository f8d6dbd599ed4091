"""`millirec pack`: a checkpoint becomes what is deployed."""

from pathlib import Path
from typing import Annotated

import typer

from millirec.cli.console import note, print_json, table
from millirec.data.errors import ConfigError


def pack(
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint's folder.", metavar="CHECKPOINT")],
    bundle: Annotated[
        Path, typer.Option("--output", "-o", help="The bundle's folder; an older bundle there is replaced.")
    ],
    name: Annotated[
        str | None, typer.Option(help="The model's name in answers; otherwise its kind, such as sasrec.")
    ] = None,
    index: Annotated[
        str, typer.Option(help="auto (by the size of the catalogue), exact, or pq (compressed).")
    ] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Pack a checkpoint for serving: graph, item index, catalogue, and a manifest with every hash."""
    from millirec.bundle import PackConfig
    from millirec.bundle import pack as make
    from millirec.index import ExactConfig, PQConfig
    from millirec.models.checkpoint import Checkpoint

    kinds = {"exact": ExactConfig, "pq": PQConfig}
    if index != "auto" and index not in kinds:
        raise ConfigError(f"--index {index}", "choose auto, exact or pq")
    config = PackConfig(name=name, index=kinds[index]() if index in kinds else "auto")
    packed = make(Checkpoint.load(checkpoint), bundle, config)
    manifest = packed.manifest
    if json:
        print_json(manifest)
        return
    size = sum(entry.bytes for entry in manifest.files.values())
    rows = [
        ["version", packed.version],
        ["items", f"{manifest.n_items:,}"],
        ["size", f"{size / 1e6:.2f} MB"],
        ["graph against network", f"{manifest.parity_error:.1e}"],
        [f"index {type(manifest.index).__struct_config__.tag}, recall@10", f"{manifest.index_recall:.4f}"],
    ]
    table(manifest.name, ["bundle", str(bundle)], rows)
    note(f"serve it: millirec serve {bundle}")
