"""`Bundle`: what is deployed. `pack` makes one from a checkpoint, `open_bundle` verifies and reads it.

A bundle is a folder of plain data: an ONNX graph, arrays in safetensors, JSON, and for large catalogues a Faiss
index. Nothing in it is ever executed, beyond running the graph. Opening needs no torch; packing does.

The hashes protect against damage and against parts that do not belong together. They are no signature: whoever
can write the whole folder can write a bundle.
"""

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from millirec import __version__, index
from millirec.cascade.cascade import CascadeConfig
from millirec.data.catalog import Catalog
from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.folder import new_folder, settle
from millirec.data.lineage import Provenance, Step
from millirec.index import ExactConfig, Index, IndexConfig, PQConfig

if TYPE_CHECKING:
    from millirec.models.base import SequenceModel
    from millirec.models.checkpoint import Checkpoint

SCHEMA = 1
EXACT_BELOW = 50_000  # items: from there on the compressed index is more than twice as fast

_MANIFEST, _ENCODER, _STEP, _POPULARITY = "manifest.json", "encoder.onnx", "step.onnx", "popularity.safetensors"
_FIELDS = frozenset({"items", "lengths", "times", "now"})
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_AGAIN = "pack the checkpoint again"


class PackConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a checkpoint becomes a bundle.

    `name`: None = the kind of the model. `index`: "auto" = exact below 50,000 items, else compressed.
    `tolerance`: the largest difference between graph and network, relative to the largest number.
    """

    name: str | None = None
    index: IndexConfig | Literal["auto"] = "auto"
    cascade: CascadeConfig = msgspec.field(default_factory=CascadeConfig)
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if self.name is not None and not self.name.strip():
            raise ConfigError("$.pack.name is empty", "give a name, or leave it out")
        if not 0 < self.tolerance < 1:
            raise ConfigError(f"$.pack.tolerance = {self.tolerance}", "choose a number between 0 and 1")


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Size in bytes and SHA-256 (hex) of one file."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a bundle holds and where it comes from.

    `model` is the model's config as plain JSON; `inputs` the names of the graph's inputs; `parity_error` the
    measured difference between graphs and network; `state_size` the numbers in a user's state when there is a graph
    that goes on from it by one event, 0 when there is none; `index_recall` the measured recall@10 of the index against
    exact search. `content_hash` covers what was packed, so not `created`; `seal` covers all other fields.
    """

    schema: int
    name: str
    created: str
    millirec: str
    model: dict[str, Any]
    lineage: tuple[Step, ...]
    provenance: Provenance
    metrics: dict[str, float]
    inputs: tuple[str, ...]
    max_length: int
    dim: int
    n_items: int
    parity_error: float
    index: IndexConfig
    index_recall: float
    cascade: CascadeConfig
    files: dict[str, FileEntry]
    state_size: int = 0
    content_hash: str = ""
    seal: str = ""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in memory. `popularity` int64 (n_items + 1,) counts training events of each item row."""

    folder: Path
    manifest: Manifest
    catalog: Catalog
    index: Index
    popularity: NDArray[np.int64]

    @property
    def cascade(self) -> CascadeConfig:
        """What is done with a question."""
        return self.manifest.cascade

    @cached_property
    def version(self) -> str:
        """The first 12 hex digits of the content hash."""
        return self.manifest.content_hash[:12]

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.manifest.name

    @property
    def max_length(self) -> int:
        """How many events of a history the encoder reads."""
        return self.manifest.max_length

    @property
    def inputs(self) -> tuple[str, ...]:
        """The graph's inputs: `items` int32 and `times` int64 (B, L), `lengths` int32 and `now` int64 (B,)."""
        return self.manifest.inputs

    @property
    def encoder(self) -> Path:
        """The graph; its output is `user_vectors` float32 (B, dim)."""
        return self.folder / _ENCODER

    @property
    def step(self) -> Path | None:
        """The graph that goes on from a state by one event; None when the model has no such step.

        `state` float32 (B, state_size), `items` int32 (B,), `times` and `now` int64 (B,) in; `user_vectors` and
        `next_state` out. See `millirec.models.base.Stepwise`.
        """
        return self.folder / _STEP if self.manifest.state_size else None


def open_bundle(folder: Path) -> Bundle:
    """Verify and read a bundle.

    Raises ArtifactError for a missing, changed or truncated file, a link, a manifest that was edited, another
    schema version, a file name that leaves the folder, a file that no bundle has, or parts that do not fit.
    """
    settle(folder)
    manifest = _read_manifest(folder)
    _check_names(folder, manifest)
    for name, entry in manifest.files.items():
        _check_file(folder / name, entry)
    catalog = Catalog.load(folder)
    try:
        popularity = load_file(folder / _POPULARITY)["popularity"].astype(np.int64)
    except (OSError, KeyError, SafetensorError) as error:
        raise ArtifactError(f"{folder / _POPULARITY}: cannot be read ({error})", _AGAIN) from error
    bundle = Bundle(folder, manifest, catalog, index.load(folder, manifest.index), popularity)
    _check_fit(bundle)
    return bundle


def pack(checkpoint: "Checkpoint", folder: Path, config: PackConfig | None = None) -> Bundle:
    """Export the encoder, check it against the network, build the index, and write the bundle at once.

    An older bundle in its place is replaced. Raises ConfigError for a model without user vectors, and
    ArtifactError when `folder` holds something else, or when the graph says something else than the network.
    """
    import torch

    from millirec.models.base import SequenceModel, Stepwise

    config = config or PackConfig()
    folder = folder.resolve()
    _check_target(folder)
    network = checkpoint.network()
    if not isinstance(network, SequenceModel):
        kind = msgspec.to_builtins(checkpoint.config)["kind"]
        raise ConfigError(
            f'$.model.kind = "{kind}" has no user vectors to serve', "pack a sequence model, such as sasrec"
        )
    with torch.inference_mode():
        vectors = network.item_vectors().float().numpy()
    with new_folder(folder) as new:
        error = _export(network, new, checkpoint, config.tolerance)
        chosen, recall = _build_index(network, vectors, new, checkpoint, config)
        checkpoint.catalog.save(new)
        save_file({"popularity": checkpoint.popularity.astype(np.int64)}, new / _POPULARITY)
        for path in new.iterdir():
            path.chmod(0o644)  # safetensors writes for the owner only; who packs is not always who serves
        manifest = Manifest(
            **_described(checkpoint, config, network),
            dim=vectors.shape[1],
            parity_error=float(f"{error:.1e}"),
            index=chosen,
            index_recall=round(recall, 4),
            files={path.name: _entry(path) for path in sorted(new.iterdir())},
            state_size=network.state_size if isinstance(network, Stepwise) else 0,
        )
        sealed = _sealed(msgspec.to_builtins(manifest))
        (new / _MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(sealed), indent=1))
        bundle = open_bundle(new)
    return replace(bundle, folder=folder)


def _described(checkpoint: "Checkpoint", config: PackConfig, network: "SequenceModel") -> dict[str, Any]:
    from millirec.models.config import max_length

    model = msgspec.to_builtins(checkpoint.config)
    return {
        "schema": SCHEMA,
        "name": config.name or model["kind"],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "millirec": __version__,
        "model": model,
        "lineage": tuple(checkpoint.lineage),
        "provenance": checkpoint.provenance,
        "metrics": dict(checkpoint.metrics),
        "inputs": network.inputs,
        "max_length": max_length(checkpoint.config),
        "n_items": len(checkpoint.catalog),
        "cascade": config.cascade,
    }


def _export(network: "SequenceModel", new: Path, checkpoint: "Checkpoint", tolerance: float) -> float:
    from millirec.models.base import Stepwise
    from millirec.models.config import max_length
    from millirec.models.export import export, export_step, parity_error, step_parity_error

    n_items, longest = len(checkpoint.catalog), max_length(checkpoint.config)
    export(network, new / _ENCODER, n_items)
    error = parity_error(network, new / _ENCODER, n_items, longest)
    if isinstance(network, Stepwise):
        export_step(network, new / _STEP, n_items)
        error = max(error, step_parity_error(network, new / _STEP, n_items, longest))
    if not error <= tolerance:
        raise ArtifactError(
            f"the exported graph differs from the network by {error:.1e} of its largest number, "
            f"allowed is {tolerance:.1e}",
            "check the parameters for NaN and huge values, or train again",
        )
    return error


def _build_index(
    network: "SequenceModel", vectors: NDArray[np.float32], new: Path, checkpoint: "Checkpoint", config: PackConfig
) -> tuple[IndexConfig, float]:
    """Build and save the index; its recall@10 is measured with vectors of random histories."""
    import torch

    from millirec.models.base import Inputs
    from millirec.models.config import max_length
    from millirec.models.export import random_batch

    by_size = ExactConfig() if len(vectors) <= EXACT_BELOW else PQConfig()
    chosen = by_size if config.index == "auto" else config.index
    built = index.build(vectors, chosen)
    built.save(new)
    if isinstance(chosen, ExactConfig):
        return chosen, 1.0
    width = min(20, max_length(checkpoint.config))
    batch = random_batch(len(vectors) - 1, 500, width, seed=0, popularity=checkpoint.popularity)
    with torch.inference_mode():
        queries = network.user_vectors(Inputs.of(batch)).float().numpy()
    return chosen, index.recall(built, index.build(vectors, ExactConfig()), queries)


def _check_target(folder: Path) -> None:
    """Only a bundle is replaced, so that a mistyped path costs nobody a folder."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is a file", "name a folder for the bundle")
    known = _expected(PQConfig(), steps=True) | {_MANIFEST}
    if foreign := sorted(path.name for path in folder.iterdir() if path.name not in known):
        raise ArtifactError(f"{folder} is no bundle: it holds `{foreign[0]}`", "name a new folder for the bundle")


def _read_manifest(folder: Path) -> Manifest:
    path = folder / _MANIFEST
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder", "give the folder that `millirec pack` wrote")
    if path.is_symlink():
        raise ArtifactError(f"{path}: is a link", "copy the bundle with its files")
    try:
        raw = msgspec.json.decode(path.read_bytes())
        found = raw.get("schema") if isinstance(raw, dict) else None
        if found != SCHEMA:
            raise ArtifactError(
                f"{path}: schema {found}, this version of millirec reads {SCHEMA}",
                "pack the checkpoint with this version",
            )
        manifest = msgspec.convert(raw, Manifest)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: missing", "give the folder that `millirec pack` wrote") from error
    except (OSError, UnicodeDecodeError, RecursionError, msgspec.MsgspecError, ConfigError) as error:
        raise ArtifactError(f"{path}: not a manifest ({error})", _AGAIN) from error
    if raw != _sealed(raw):
        raise ArtifactError(f"{path}: was changed after packing (its hashes do not fit)", _AGAIN)
    return manifest


def _expected(config: IndexConfig, *, steps: bool) -> frozenset[str]:
    files = {_ENCODER, _POPULARITY, "catalog.json", "catalog.safetensors", "index.safetensors"}
    files |= {"index.faiss"} if isinstance(config, PQConfig) else set()
    return frozenset(files | {_STEP} if steps else files)


def _check_names(folder: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        if not _PLAIN_NAME.fullmatch(name):
            raise ArtifactError(f"{folder}: the manifest names {name!r}, not a plain file name", "do not trust it")
    expected = _expected(manifest.index, steps=manifest.state_size > 0)
    if unknown := sorted(set(manifest.files) - expected):
        raise ArtifactError(f"{folder}: the manifest names `{unknown[0]}`, unknown to this version", _AGAIN)
    if missing := sorted(expected - set(manifest.files)):
        raise ArtifactError(f"{folder}: the manifest does not name `{missing[0]}`", _AGAIN)


def _check_file(path: Path, entry: FileEntry) -> None:
    if path.is_symlink():
        raise ArtifactError(f"{path}: is a link", "copy the bundle with its files")
    if not path.is_file():
        raise ArtifactError(f"{path}: missing", "copy the whole bundle, or pack again")
    found = _entry(path) if path.stat().st_size == entry.bytes else None
    if found is None:
        raise ArtifactError(f"{path}: {path.stat().st_size:,} bytes, packed were {entry.bytes:,}", _AGAIN)
    if found != entry:
        raise ArtifactError(f"{path}: was changed after packing (SHA-256)", _AGAIN)


def _check_fit(bundle: Bundle) -> None:
    manifest, where = bundle.manifest, bundle.folder
    n = manifest.n_items
    sizes = {
        "catalog": len(bundle.catalog),
        "index": bundle.index.n_items,
        "popularity": bundle.popularity.size - 1,
    }
    for part, size in sizes.items():
        if size != n:
            raise ArtifactError(f"{where}: the {part} has {size:,} items, the manifest says {n:,}", _AGAIN)
    if bundle.index.dim != manifest.dim:
        raise ArtifactError(f"{where}: the index is {bundle.index.dim} wide, not {manifest.dim}", _AGAIN)
    if "items" not in manifest.inputs or not set(manifest.inputs) <= _FIELDS:
        raise ArtifactError(f"{where}: graph inputs {list(manifest.inputs)} are not among {sorted(_FIELDS)}", _AGAIN)
    if manifest.max_length < 1:
        raise ArtifactError(f"{where}: max_length = {manifest.max_length}", _AGAIN)


def _sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with its two hashes: SHA-256 (hex) of canonical JSON.

    They are taken from the JSON as it stands, so that fields which later versions add cannot change them.
    """
    sealed = dict(manifest)
    for name, left_out in (("content_hash", {"content_hash", "created", "seal"}), ("seal", {"seal"})):
        fields = {key: value for key, value in sealed.items() if key not in left_out}
        sealed[name] = hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()
    return sealed


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())
