"""`Bundle`: what is deployed, verified and read. Needs no torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec import index
from millirec.bundle.counts import read_counts
from millirec.bundle.manifest import (
    AGAIN,
    MANIFEST,
    SCHEMA,
    TENSORS,
    FileEntry,
    Manifest,
    entry_of,
    sealed,
)
from millirec.bundle.ranker import PRE_RANKER, RANKER, BundledRanker, read_ranker
from millirec.cascade.cascade import CascadeConfig
from millirec.data.catalog import Catalog
from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.folder import settle
from millirec.data.tensors import Array, load_tensors
from millirec.index import ExactIndex, FusedIndex, Index, PQConfig
from millirec.models.counts import Gain, VoteTable
from millirec.models.fusion import Stacked
from millirec.models.graph import Graph

FIELDS = frozenset({"items", "lengths", "times", "now"})
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
_CATALOG = "catalog.safetensors"
_ENCODER, _STEP = "encoder.onnx", "step.onnx"
# How the first bundles were laid out: whole graphs, and a file for each other part.
_POPULARITY, _INDEX, _FAISS, _CATALOG_HEAD = (
    "popularity.safetensors",
    "index.safetensors",
    "index.faiss",
    "catalog.json",
)


@dataclass(frozen=True)
class Part:
    """One model of a bundle, ready to be run: `encoder` and `step` as in `Bundle`.

    Its vector, `dim` numbers times `scale`, is its place in the user vector that the index is searched with.
    """

    name: str
    encoder: Graph
    step: Graph | None
    inputs: tuple[str, ...]
    max_length: int
    state_size: int
    dim: int
    scale: float = 1.0


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in memory.

    `popularity` int64 (n_items + 1,) counts training events of each item row. `tensors`: the graphs as bytes
    ("encoder", "step"), their arrays ("encoder/NAME", "step/NAME") and those of the index ("index/NAME"); equal ones
    are one array. `ranker`: the second stage, `pre_ranker`: what chooses its candidates, None when there
    is none.
    """

    folder: Path
    manifest: Manifest
    catalog: Catalog
    index: Index
    popularity: NDArray[np.int64]
    tensors: Mapping[str, Array] = field(default_factory=dict)
    ranker: BundledRanker | None = None
    pre_ranker: BundledRanker | None = None

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

    @cached_property
    def encoder(self) -> Graph:
        """The graph; its output is `user_vectors` float32 (B, dim)."""
        return self._graph("encoder", _ENCODER)

    @cached_property
    def step(self) -> Graph | None:
        """The graph that goes on from a state by one event; None when the model has no such step.

        `state` float32 (B, state_size), `items` int32 (B,), `times` and `now` int64 (B,) in; `user_vectors` and
        `next_state` out. See `millirec.models.base.Stepwise`.
        """
        return self._graph("step", _STEP) if self.manifest.state_size else None

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The models, one or several, in the order of their places in a user vector."""
        told = self.manifest
        if not told.members:
            only = told.name, self.encoder, self.step, told.inputs, told.max_length, told.state_size, told.dim
            return (Part(*only),)
        out = []
        for place, member in enumerate(told.members):
            step = self._graph(f"{place}/step", "") if member.state_size else None
            own = member.inputs, member.max_length, member.state_size, member.dim, member.share**0.5
            out.append(Part(member.name, self._graph(f"{place}/encoder", ""), step, *own))
        return tuple(out)

    def _graph(self, name: str, file: str) -> Graph:
        told = self.tensors.get(name)
        if told is None and file not in self.manifest.files:
            raise ArtifactError(f"{self.folder}: holds no graph {name!r}", AGAIN)
        content = (self.folder / file).read_bytes() if told is None else told.tobytes()
        return Graph(f"{self.folder}: {name}", content, under(self.tensors, f"{name}/"))

    @cached_property
    def counts(self) -> tuple[tuple[VoteTable, Gain], ...]:
        """What was counted beside the network, and what its votes add to a score. Empty where nothing was."""
        return read_counts(self.manifest.counts, self.tensors, self.manifest.n_items)

    @property
    def bytes(self) -> int:
        """The size of all its files but the manifest."""
        return sum(entry.bytes for entry in self.manifest.files.values())


def under(tensors: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """The arrays whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


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
    tensors = _tensors(folder, manifest)
    if "popularity" not in tensors:
        raise ArtifactError(f"{folder}: counts no training events of its items", AGAIN)
    found = _fused(folder, manifest, index.load(under(tensors, "index/"), manifest.index))
    popularity = tensors["popularity"].astype(np.int64)
    catalog = Catalog.load(folder)
    rankers = [
        None if entry is None else read_ranker(folder, files, entry, catalog)
        for files, entry in ((RANKER, manifest.ranker), (PRE_RANKER, manifest.pre_ranker))
    ]
    bundle = Bundle(folder, manifest, catalog, found, popularity, tensors, *rankers)
    _check_fit(bundle)
    return bundle


def _fused(folder: Path, manifest: Manifest, joined: Index) -> Index:
    """The index that fuses what members say, where the manifest says so; else the one that sums it."""
    fusion, widths = manifest.fusion, [member.dim for member in manifest.members]
    if fusion is None:
        return joined
    if not isinstance(joined, ExactIndex) or sum(widths) != joined.dim:
        raise ArtifactError(f"{folder}: fusion of members whose vectors are not there one by one", AGAIN)
    if isinstance(fusion, Stacked) and len(fusion.ranks) != len(widths):
        raise ArtifactError(f"{folder}: {len(fusion.ranks)} weights of ranks for {len(widths)} members", AGAIN)
    return FusedIndex(joined, widths, fusion)


def _tensors(folder: Path, manifest: Manifest) -> dict[str, Array]:
    """All arrays, whatever the layout."""
    if TENSORS in manifest.files:
        return load_tensors(folder / TENSORS)
    tensors = dict(load_tensors(folder / _POPULARITY))
    tensors |= {f"index/{name}": array for name, array in load_tensors(folder / _INDEX).items()}
    if _FAISS in manifest.files:
        tensors["index/faiss"] = np.frombuffer((folder / _FAISS).read_bytes(), np.uint8)
    return tensors


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
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
        raise ArtifactError(f"{path}: not a manifest ({error})", AGAIN) from error
    if raw != sealed(raw):
        raise ArtifactError(f"{path}: was changed after packing (its hashes do not fit)", AGAIN)
    return manifest


def expected_files(manifest: Manifest) -> frozenset[str]:
    """The names of the files of a bundle, but for the manifest's own."""
    if TENSORS in manifest.files:
        rankers = ((RANKER, manifest.ranker), (PRE_RANKER, manifest.pre_ranker))
        theirs = [name for files, entry in rankers if entry is not None for name in files]
        return frozenset({TENSORS, _CATALOG, *theirs})
    files = {_ENCODER, _CATALOG, _POPULARITY, _INDEX, _CATALOG_HEAD}
    files |= {_STEP} if manifest.state_size > 0 else set()
    return frozenset(files | {_FAISS} if isinstance(manifest.index, PQConfig) else files)


def _check_names(folder: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        if not _PLAIN_NAME.fullmatch(name):
            raise ArtifactError(f"{folder}: the manifest names {name!r}, not a plain file name", "do not trust it")
    expected = expected_files(manifest)
    if unknown := sorted(set(manifest.files) - expected):
        raise ArtifactError(f"{folder}: the manifest names `{unknown[0]}`, unknown to this version", AGAIN)
    if missing := sorted(expected - set(manifest.files)):
        raise ArtifactError(f"{folder}: the manifest does not name `{missing[0]}`", AGAIN)


def _check_file(path: Path, entry: FileEntry) -> None:
    if path.is_symlink():
        raise ArtifactError(f"{path}: is a link", "copy the bundle with its files")
    if not path.is_file():
        raise ArtifactError(f"{path}: missing", "copy the whole bundle, or pack again")
    found = entry_of(path) if path.stat().st_size == entry.bytes else None
    if found is None:
        raise ArtifactError(f"{path}: {path.stat().st_size:,} bytes, packed were {entry.bytes:,}", AGAIN)
    if found != entry:
        raise ArtifactError(f"{path}: was changed after packing (SHA-256)", AGAIN)


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
            raise ArtifactError(f"{where}: the {part} has {size:,} items, the manifest says {n:,}", AGAIN)
    if bundle.index.dim != manifest.dim:
        raise ArtifactError(f"{where}: the index is {bundle.index.dim} wide, not {manifest.dim}", AGAIN)
    if "items" not in manifest.inputs or not set(manifest.inputs) <= FIELDS:
        raise ArtifactError(f"{where}: graph inputs {list(manifest.inputs)} are not among {sorted(FIELDS)}", AGAIN)
    if members := manifest.members:
        if sum(member.dim for member in members) != manifest.dim:
            raise ArtifactError(f"{where}: the members' vectors are not {manifest.dim} wide together", AGAIN)
        if len({member.name for member in members}) < len(members) or not all(0 < one.share < 1e6 for one in members):
            raise ArtifactError(f"{where}: members of one name, or shares that are not above 0", AGAIN)
    if bundle.counts and manifest.fusion is not None:
        raise ArtifactError(f"{where}: counts beside models that are fused by ranks", AGAIN)
    if manifest.max_length < 1:
        raise ArtifactError(f"{where}: max_length = {manifest.max_length}", AGAIN)


KNOWN_FILES = frozenset({*RANKER, *PRE_RANKER, MANIFEST, TENSORS, _CATALOG, _ENCODER, _STEP}) | {
    _POPULARITY,
    _INDEX,
    _FAISS,
    _CATALOG_HEAD,
}
"""Every name that a file of a bundle has ever had."""
