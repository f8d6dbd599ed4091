"""A ranker's checkpoint becomes a part of a bundle. Needs torch, which is imported when it is called."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from millirec.bundle.ranker import Head, RankerEntry, RankerFiles
from millirec.data.catalog import Catalog
from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.features import Events, FeatureState, Featuriser, sides_of
from millirec.data.features.config import sources_of
from millirec.data.tensors import Array, save_tensors
from millirec.models.graph import Graph

if TYPE_CHECKING:
    from millirec.models.rankers.checkpoint import RankerCheckpoint
    from millirec.models.rankers.served import Served

_TOLERANCE = {"fp32": 1e-4, "int8": 0.2}


@dataclass(frozen=True)
class RankerPart:
    """A ranker to be packed beside a sequence model.

    `known`: the events that its features know when it begins to serve (`known_events`), rows of its own catalogues.
    `weights` "int8": its hidden layers compute in integers. `pre`: a cheaper one that chooses its candidates.
    """

    checkpoint: "RankerCheckpoint"
    known: Events
    weights: Literal["fp32", "int8"] = "fp32"
    pre: "RankerPart | None" = None

    def check(self, items: Catalog) -> None:
        """Raises ConfigError when it, or its pre-ranker, does not fit a bundle with these items."""
        if self.pre is not None:
            if self.pre.pre is not None:
                raise ConfigError("the pre-ranker has a pre-ranker of its own", "give one ranker and one pre-ranker")
            self.pre.check(items)
        if self.weights not in _TOLERANCE:
            raise ConfigError(f"weights = {self.weights!r} for the ranker", "choose fp32 or int8")
        check_items(self.checkpoint.featuriser.items, items)


def check_items(ranker: Catalog, model: Catalog) -> None:
    """Raises ConfigError when a ranker and a sequence model do not know the same items in the same rows."""
    own, theirs = ranker.vocabulary.ids, model.vocabulary.ids
    if own != theirs:
        pairs = enumerate(zip(own, theirs, strict=False), start=1)
        row, (one, other) = next((pair for pair in pairs if pair[1][0] != pair[1][1]), (0, ("", "")))
        which = f"; row {row} is {one!r} to the ranker, {other!r} to the model" if row else ""
        raise ConfigError(
            f"the ranker knows {len(own):,} items, the sequence model {len(theirs):,}, and not the same{which}",
            "train both on the same log, read by the same [data]",
        )


def write_ranker(folder: Path, files: RankerFiles, part: RankerPart) -> RankerEntry:
    """Write the files of a ranker, without its pre-ranker, into a bundle's folder, and what the manifest says of it.

    Raises ArtifactError when the graphs say something else than the network.
    """
    checkpoint = part.checkpoint
    featuriser = _lean(checkpoint.featuriser)
    served, error = _exported(part, featuriser)
    state = FeatureState(featuriser.needs, featuriser.keys)
    known, times = part.known, part.known.times
    until = int(times.max()) if len(times) else 0
    state.extend(known, until)
    tensors = _graph_arrays("rows", served.rows)
    tensors |= {} if served.items is None else _graph_arrays("items", served.items)
    save_tensors(tensors | {f"state/{name}": array for name, array in state.arrays().items()}, folder / files.tensors)
    featuriser.items.save(folder, files.items)
    featuriser.users.save(folder, files.users)
    head = Head(
        features=featuriser.fields,
        sides=sides_of(featuriser),
        learned=featuriser.learned,
        label=checkpoint.label,
        calibration=checkpoint.calibration,
    )
    (folder / files.head).write_bytes(msgspec.json.format(msgspec.json.encode(head), indent=1))
    return RankerEntry(
        model=msgspec.to_builtins(checkpoint.config),
        checkpoint=checkpoint.content_hash,
        lineage=tuple(checkpoint.lineage),
        provenance=checkpoint.provenance,
        metrics=dict(checkpoint.metrics),
        weights=part.weights,
        parity_error=float(f"{error:.1e}"),
        known_until=until,
        n_events=len(times),
    )


def _exported(part: RankerPart, featuriser: Featuriser) -> "tuple[Served, float]":
    from millirec.models.rankers.served import export_ranker, parity_error

    network, sides = part.checkpoint.network(), sides_of(featuriser)
    served = export_ranker(network, sides, int8=part.weights == "int8")
    error = parity_error(network, served, sides)
    rounded = "int8" in (part.weights, part.checkpoint.config.weights)
    allowed = _TOLERANCE["int8" if rounded else "fp32"]
    if not error <= allowed:
        raise ArtifactError(
            f"the ranker's graph differs from its network by {error:.1e} of its largest logit, "
            f"allowed is {allowed:.1e}",
            "check the parameters for NaN and huge values, or train again",
        )
    return served, error


def _lean(featuriser: Featuriser) -> Featuriser:
    """With those features of the catalogues alone that are read."""
    read = {source for field in featuriser.fields for source in sources_of(field)}
    users, items = (
        catalog.only(sorted(source.partition(".")[2] for source in read if source.startswith(f"{side}.")))
        for side, catalog in (("user", featuriser.users), ("item", featuriser.items))
    )
    return Featuriser(featuriser.fields, featuriser.learned, users, items)


def _graph_arrays(name: str, graph: Graph) -> dict[str, Array]:
    whole = {f"{name}/{key}": array for key, array in graph.tensors.items()}
    return whole | {name: np.frombuffer(graph.content, np.uint8)}
