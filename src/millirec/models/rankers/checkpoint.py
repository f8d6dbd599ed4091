"""`RankerCheckpoint`: a feature ranker with the features that it reads. Config + parameters + what features learned."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from millirec.data.catalog import Catalog
from millirec.data.errors import ArtifactError
from millirec.data.features import Features, Featuriser, FieldConfig, Learned
from millirec.data.folder import new_folder, settle
from millirec.data.labels import LabelConfig
from millirec.data.lineage import Provenance, Step
from millirec.data.tensors import load_tensors, save_tensors
from millirec.models.base import MultiTask, RankInputs
from millirec.models.rankers.calibration import Calibration, Sigmoid
from millirec.models.rankers.config import RankerConfig, build_ranker

SCHEMA = 1
_HEAD, _PARAMETERS = "ranker.json", "parameters.safetensors"
_BATCH = 8192


class _Head(msgspec.Struct, kw_only=True):
    schema: int
    ranker: RankerConfig
    features: list[FieldConfig]
    learned: dict[str, Learned]
    label: LabelConfig
    calibration: Calibration
    lineage: list[Step]
    provenance: Provenance
    metrics: dict[str, float]


@dataclass(frozen=True)
class RankerCheckpoint:
    """`config` and `parameters` rebuild the network over the schema of `featuriser`, which holds both catalogues.

    `label` says what a success is. `metrics` are the validation figures when it was made.
    """

    config: RankerConfig
    parameters: dict[str, Tensor]
    featuriser: Featuriser
    label: LabelConfig
    provenance: Provenance
    calibration: Calibration = field(default_factory=Sigmoid)
    lineage: tuple[Step, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)

    def network(self) -> nn.Module:
        """The network in evaluation mode. Raises ArtifactError when the parameters do not fit config and features."""
        module = build_ranker(self.config, self.featuriser.schema())
        try:
            module.load_state_dict(self.parameters)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise ArtifactError(f"parameters do not fit ranker and features: {reason}", "train it again") from error
        return module.eval()

    def chances(self, features: Features) -> NDArray[np.float64]:
        """The calibrated chance of a success of each row, (n,)."""
        return self.calibration.chances(logits_of(self.network(), features))

    def with_provenance(self, provenance: Provenance) -> "RankerCheckpoint":
        """The same ranker with the settings of its data filled in."""
        return replace(self, provenance=provenance)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 (hex) of what the ranker answers from: config, parameters, features, calibration."""
        own = [self.config, self.featuriser.fields, self.featuriser.learned, self.calibration]
        digest = hashlib.sha256(msgspec.json.encode(own))
        for name, tensor in sorted(self.parameters.items()):
            array = tensor.detach().cpu().contiguous().numpy()
            digest.update(f"\0{name}{array.dtype.str}{array.shape}".encode() + array.tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the ranker as a folder that appears at once; an older one in its place is replaced."""
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in self.parameters.items()}
        head = _Head(
            schema=SCHEMA,
            ranker=self.config,
            features=list(self.featuriser.fields),
            learned=self.featuriser.learned,
            label=self.label,
            calibration=self.calibration,
            lineage=list(self.lineage),
            provenance=self.provenance,
            metrics=self.metrics,
        )
        with new_folder(folder) as new:
            save_tensors(arrays, new / _PARAMETERS)
            for name, catalog in (("users", self.featuriser.users), ("items", self.featuriser.items)):
                (new / name).mkdir()
                catalog.save(new / name)
            (new / _HEAD).write_bytes(msgspec.json.format(msgspec.json.encode(head), indent=1))

    @classmethod
    def load(cls, folder: Path) -> "RankerCheckpoint":
        """The inverse of `save`. Raises ArtifactError when a file is missing, damaged or of another schema."""
        settle(folder)
        if (folder / "manifest.json").exists():
            raise ArtifactError(f"{folder}: is a bundle, not a checkpoint", "give the checkpoint that it was made of")
        try:
            raw = msgspec.json.decode((folder / _HEAD).read_bytes())
            if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
                found = raw.get("schema") if isinstance(raw, dict) else None
                raise ArtifactError(f"{folder}: schema {found}, this version reads {SCHEMA}", "train again")
            head = msgspec.convert(raw, _Head)
            users, items = Catalog.load(folder / "users"), Catalog.load(folder / "items")
            featuriser = Featuriser(head.features, head.learned, users, items)
            arrays = load_tensors(folder / _PARAMETERS)
        except (OSError, msgspec.MsgspecError) as error:
            raise ArtifactError(f"{folder}: not a readable ranker ({error})", "train it again") from error
        return cls(
            head.ranker,
            {name: torch.from_numpy(array) for name, array in arrays.items()},
            featuriser,
            head.label,
            head.provenance,
            head.calibration,
            tuple(head.lineage),
            head.metrics,
        )


def is_ranker(folder: Path) -> bool:
    """Whether a folder holds a ranker rather than another artifact, such as a bundle with a ranker in it."""
    return (folder / _HEAD).exists() and not (folder / "manifest.json").exists()


def logits_of(network: nn.Module, features: Features) -> NDArray[np.float64]:
    """The logit of each row, (n,), from a network in evaluation mode."""
    return _in_batches(network, network, features, np.zeros(0, np.float64))


def task_logits_of(network: MultiTask, features: Features) -> NDArray[np.float64]:
    """The logits of each row for each task, (n, T), from a network in evaluation mode."""
    empty = np.zeros((0, len(network.tasks)), np.float64)
    return _in_batches(network, network.task_logits, features, empty)  # type: ignore[arg-type]


def _in_batches(
    network: nn.Module, asked: Callable[[RankInputs], Tensor], features: Features, empty: NDArray[np.float64]
) -> NDArray[np.float64]:
    schema = network.schema
    device = next(chain(network.parameters(), network.buffers())).device
    found = [empty]
    with torch.inference_mode():
        for at in range(0, len(features), _BATCH):
            rows = features.take(np.arange(at, min(at + _BATCH, len(features))))
            logits = asked(RankInputs.of(rows, schema, device))  # type: ignore[arg-type]
            found.append(logits.double().cpu().numpy())
    return np.concatenate(found)
