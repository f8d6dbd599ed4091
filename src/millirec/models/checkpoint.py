"""`Checkpoint`: config + parameters + lineage. What the workshop hands from one step to the next."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from millirec.data.catalog import Catalog
from millirec.data.errors import ArtifactError
from millirec.data.folder import new_folder, settle
from millirec.data.lineage import Provenance, Step
from millirec.data.tensors import load_tensors, save_tensors
from millirec.models.config import ModelConfig, build

__all__ = ["Checkpoint", "Provenance", "Step"]

SCHEMA = 1
_PARAMETERS, _POPULARITY = "parameters.safetensors", "__popularity__"


class _Head(msgspec.Struct, kw_only=True):
    schema: int
    model: ModelConfig
    lineage: list[Step]
    provenance: Provenance
    metrics: dict[str, float]


@dataclass(frozen=True)
class Checkpoint:
    """`config` and `parameters` always rebuild the network; `lineage` tells how it came to be.

    `popularity` int64 (n_items + 1,) counts training events of each item row. `metrics` are the validation
    figures when it was made.
    """

    config: ModelConfig
    parameters: dict[str, Tensor]
    catalog: Catalog
    popularity: NDArray[np.int64]
    provenance: Provenance
    lineage: tuple[Step, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)

    def network(self) -> nn.Module:
        """The network in evaluation mode. Raises ArtifactError when the parameters do not fit the config."""
        module = build(self.config, len(self.catalog))
        try:
            module.load_state_dict(self.parameters)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise ArtifactError(f"parameters do not fit the config: {reason}", "make the checkpoint again") from error
        return module.eval()

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) of what the model answers from: config, parameters, vocabulary."""
        digest = hashlib.sha256(msgspec.json.encode(self.config))
        for name, tensor in sorted(self.parameters.items()):
            array = tensor.detach().cpu().contiguous().numpy()
            digest.update(f"\0{name}{array.dtype.str}{array.shape}".encode() + array.tobytes())
        digest.update("\0".join(self.catalog.vocabulary.ids).encode())
        return digest.hexdigest()

    def with_provenance(self, provenance: Provenance) -> "Checkpoint":
        """The same model with the settings of its data filled in."""
        return replace(self, provenance=provenance)

    def save(self, folder: Path) -> None:
        """Write the checkpoint as a folder that appears at once; an older one in its place is replaced."""
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in self.parameters.items()}
        head = _Head(
            schema=SCHEMA,
            model=self.config,
            lineage=list(self.lineage),
            provenance=self.provenance,
            metrics=self.metrics,
        )
        with new_folder(folder) as new:
            save_tensors(arrays | {_POPULARITY: self.popularity}, new / _PARAMETERS)
            self.catalog.save(new)
            (new / "checkpoint.json").write_bytes(msgspec.json.format(msgspec.json.encode(head), indent=1))

    @classmethod
    def load(cls, folder: Path) -> "Checkpoint":
        """The inverse of `save`. Raises ArtifactError when a file is missing, damaged or of another schema."""
        settle(folder)
        if (folder / "manifest.json").exists():
            raise ArtifactError(f"{folder}: is a bundle, not a checkpoint", "give the checkpoint that it was made of")
        if (folder / "ranker.json").exists():
            raise ArtifactError(f"{folder}: holds a ranker, not a model", "give the checkpoint of a run with a [model]")
        try:
            raw = msgspec.json.decode((folder / "checkpoint.json").read_bytes())
            if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
                found = raw.get("schema") if isinstance(raw, dict) else None
                raise ArtifactError(f"{folder}: schema {found}, this version reads {SCHEMA}", "train again")
            head = msgspec.convert(raw, _Head)
            arrays = load_tensors(folder / _PARAMETERS)
            popularity = arrays.pop(_POPULARITY)
        except (OSError, KeyError, msgspec.MsgspecError) as error:
            raise ArtifactError(f"{folder}: not a readable checkpoint ({error})", "train it again") from error
        return cls(
            head.model,
            {name: torch.from_numpy(array) for name, array in arrays.items()},
            Catalog.load(folder),
            popularity,
            head.provenance,
            tuple(head.lineage),
            head.metrics,
        )
