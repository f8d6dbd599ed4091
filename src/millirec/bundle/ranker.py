"""`BundledRanker`: the ranker of a bundle, with its features and what they knew at the end of the training log."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

from millirec.data.catalog import Catalog
from millirec.data.errors import ArtifactError
from millirec.data.features import FeatureState, Featuriser, FieldConfig, Learned, Sides, sides_of
from millirec.data.labels import LabelConfig
from millirec.data.lineage import Provenance, Step
from millirec.data.tensors import Array, load_tensors
from millirec.models.graph import Graph
from millirec.models.rankers.calibration import Calibration

_AGAIN = "pack the bundle again"


class RankerFiles(NamedTuple):
    """The names of the files of one ranker in a bundle."""

    head: str
    tensors: str
    items: str
    users: str

    @classmethod
    def of(cls, name: str) -> Self:
        """Those of the ranker called `name`."""
        return cls(f"{name}.json", f"{name}.safetensors", f"{name}-items.safetensors", f"{name}-users.safetensors")


RANKER, PRE_RANKER = RankerFiles.of("ranker"), RankerFiles.of("pre-ranker")


class RankerEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the manifest tells of a ranker.

    `model`: its config as plain JSON. `checkpoint`: the content hash (hex) of what was packed. `weights`: "fp32" or
    "int8". `parity_error`: the measured difference between graphs and network. `known_until`: the newest event (ms)
    that its features know of, of `n_events`.
    """

    model: dict[str, Any]
    checkpoint: str
    lineage: tuple[Step, ...]
    provenance: Provenance
    metrics: dict[str, float]
    weights: str
    parity_error: float
    known_until: int
    n_events: int


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is no array: the features, what they have learned, what a success is, the curve from logits to chances.

    `sides`: the order of columns that the graphs were made for.
    """

    features: tuple[FieldConfig, ...]
    sides: Sides
    learned: dict[str, Learned]
    label: LabelConfig
    calibration: Calibration


@dataclass(frozen=True)
class BundledRanker:
    """`rows` gives logits of candidates, `items` (where there is one) what is fixed for an item; see
    `models.rankers.served`. `featuriser` has the bundle's rows of items. `known_until`: events up to this time (ms) are
    in the `state`.
    """

    featuriser: Featuriser
    label: LabelConfig
    calibration: Calibration
    known_until: int
    rows: Graph
    items: Graph | None
    arrays: Mapping[str, Array]

    def state(self) -> FeatureState:
        """What the features know at first: a new object each time. Raises ArtifactError when it does not fit them."""
        state = FeatureState(self.featuriser.needs, self.featuriser.keys)
        try:
            state.load(self.arrays)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise ArtifactError(f"ranker: its state does not fit its features ({error})", _AGAIN) from error
        return state


def read_ranker(folder: Path, files: RankerFiles, entry: RankerEntry, items: Catalog) -> BundledRanker:
    """A ranker in a bundle's folder, whose catalogue is `items`. Raises ArtifactError when it does not fit."""
    try:
        head = msgspec.json.decode((folder / files.head).read_bytes(), type=Head)
        own, users = Catalog.load(folder, files.items), Catalog.load(folder, files.users)
        featuriser = Featuriser(head.features, head.learned, users, own)
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtifactError(f"{folder}: its ranker cannot be read ({error})", _AGAIN) from error
    if head.sides != sides_of(featuriser):
        raise ArtifactError(f"{folder}: its ranker reads its features in another order than this version", _AGAIN)
    if own.vocabulary.ids != items.vocabulary.ids:
        raise ArtifactError(f"{folder}: the ranker has other items than the bundle", _AGAIN)
    arrays = load_tensors(folder / files.tensors)
    if "rows" not in arrays:
        raise ArtifactError(f"{folder}: the ranker has no graph", _AGAIN)
    return BundledRanker(
        featuriser,
        head.label,
        head.calibration,
        entry.known_until,
        graph_of(folder, arrays, "rows"),
        graph_of(folder, arrays, "items") if "items" in arrays else None,
        {name.removeprefix("state/"): array for name, array in arrays.items() if name.startswith("state/")},
    )


def graph_of(folder: Path, arrays: Mapping[str, Array], name: str) -> Graph:
    """A graph among the arrays of a ranker."""
    own = {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}
    return Graph(f"{folder}: ranker {name}", arrays[name].tobytes(), own)
