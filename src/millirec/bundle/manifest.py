"""`Manifest`: what a bundle holds and where it comes from, sealed by hashes.

The hashes protect against damage and against parts that do not belong together. They are no signature: whoever can
write the whole folder can write a bundle.
"""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from millirec.bundle.counts import CountsEntry
from millirec.bundle.ranker import RankerEntry
from millirec.cascade.cascade import CascadeConfig
from millirec.data.lineage import Provenance, Step
from millirec.index import IndexConfig
from millirec.models.fusion import FusionConfig

SCHEMA = 1
MANIFEST, TENSORS = "manifest.json", "tensors.safetensors"
AGAIN = "pack the checkpoint again"


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Size in bytes and SHA-256 (hex) of one file."""

    bytes: int
    sha256: str


class Member(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of several models in a bundle; fields as in `Manifest`.

    `share`: the weight of its scores in the sum. The index holds the members' item vectors side by side, `dim` columns
    each, times the square root of the share; at serving the user vectors are multiplied by it too. Where members are
    fused by reciprocal ranks it matters for the likeness of items alone.
    """

    name: str
    model: dict[str, Any]
    lineage: tuple[Step, ...]
    metrics: dict[str, float]
    inputs: tuple[str, ...]
    max_length: int
    dim: int
    parity_error: float
    share: float
    state_size: int = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a bundle holds and where it comes from.

    `model` is the model's config as plain JSON; `inputs` the names of the graph's inputs; `parity_error` the
    measured difference between graphs and network; `state_size` the numbers in a user's state when there is a graph
    that goes on from it by one event, 0 when there is none; `index_recall` the measured recall@10 of the index against
    exact search. `members`: of a bundle with several models; empty where there is one. `fusion`: how their scores
    become one, None = summed. `counts`: what was counted and adds to these scores. `ranker`: the second stage, where
    there is one, and `pre_ranker` what chooses its candidates. `content_hash` covers what was packed, so not
    `created`; `seal` covers all other fields.
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
    members: tuple[Member, ...] = ()
    fusion: FusionConfig | None = None
    ranker: RankerEntry | None = None
    pre_ranker: RankerEntry | None = None
    counts: tuple[CountsEntry, ...] = ()
    content_hash: str = ""
    seal: str = ""


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with its two hashes: SHA-256 (hex) of canonical JSON.

    They are taken from the JSON as it stands, so that fields which later versions add cannot change them.
    """
    sealed = dict(manifest)
    for name, left_out in (("content_hash", {"content_hash", "created", "seal"}), ("seal", {"seal"})):
        fields = {key: value for key, value in sealed.items() if key not in left_out}
        sealed[name] = hashlib.sha256(msgspec.json.encode(fields, order="sorted")).hexdigest()
    return sealed


def entry_of(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())
