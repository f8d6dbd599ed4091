"""`pack_ensemble`: several checkpoints become one bundle that answers with what they say together.

Mostly that is the weighted sum of their scores, else what `millirec.models.fusion` makes of them.

The sum of inner products is the inner product of vectors side by side, so one search over the joined item vectors finds
the best of the sum exactly, and a member that is left out is a block of zeros. Ranking by a weighted sum of logits is
ranking by the log-linear pool of the members' softmaxes (Genest and Zidek, "Combining Probability Distributions",
Statistical Science 1986): what normalises them is the same for all items and need not be known.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec import __version__, index
from millirec.bundle.manifest import SCHEMA, Member
from millirec.bundle.packing import (
    EXACT_BELOW,
    PackConfig,
    check_target,
    exported,
    kept_features,
    network_of,
    write,
)
from millirec.bundle.rank_packing import RankerPart
from millirec.bundle.read import FIELDS, Bundle
from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.tensors import Array
from millirec.index import ExactConfig, Index, PQConfig
from millirec.models.fusion import MOST_ITEMS, FusionConfig, ReciprocalRank, Stacked

if TYPE_CHECKING:
    from millirec.models.base import SequenceModel
    from millirec.models.checkpoint import Checkpoint

Vectors = NDArray[np.float32]
_MOST = 8


def pack_ensemble(
    checkpoints: Sequence["Checkpoint"],
    shares: Sequence[float],
    folder: Path,
    config: PackConfig | None = None,
    ranker: RankerPart | None = None,
    fusion: FusionConfig | None = None,
) -> Bundle:
    """One bundle of several checkpoints; `shares` are the weights of their scores, `ranker` as in `pack`.

    `fusion`: None = the sum of weighted scores. Where ranks alone count, shares are those of the likeness of items, on
    top of what makes the members' vectors equally long.

    Members are named by the kinds of their models, with a number where that is taken. Raises ConfigError for shares
    and fusions that do not fit and for a model without user vectors, ArtifactError for checkpoints of different
    catalogues or data, and where `pack` does.
    """
    config = config or PackConfig()
    check_target(folder)
    _check(checkpoints, shares)
    _check_fusion(fusion, checkpoints, config)
    first = checkpoints[0]
    if ranker is not None:
        ranker.check(first.catalog)
        config = config.ranked(pre=ranker.pre is not None)
    catalog = kept_features(first.catalog, config, ranker)
    networks = [network_of(checkpoint) for checkpoint in checkpoints]
    if isinstance(fusion, ReciprocalRank):
        shares = [share / _mean_square(network) for network, share in zip(networks, shares, strict=True)]
    tensors: dict[str, Array] = {}
    members = []
    for place, (checkpoint, network, share) in enumerate(zip(checkpoints, networks, shares, strict=True)):
        own, error = exported(network, checkpoint, config)
        tensors |= {f"{place}/{name}": array for name, array in own.items()}
        members.append(_member(checkpoint, network, share, error))
    members = _named(members)
    vectors, queries = _joined(checkpoints, networks, shares)
    chosen = config.index
    if chosen == "auto":
        chosen = ExactConfig() if len(vectors) <= EXACT_BELOW or fusion is not None else PQConfig()
    built = index.build(vectors, chosen)
    told = _told(first, config, members) | {
        "fusion": fusion,
        "index": chosen,
        "index_recall": _recall(built, chosen, vectors, queries),
    }
    tensors |= {f"index/{name}": array for name, array in built.arrays().items()}
    return write(folder, tensors | {"popularity": first.popularity.astype(np.int64)}, catalog, told, ranker)


def _check(checkpoints: Sequence["Checkpoint"], shares: Sequence[float]) -> None:
    if not 2 <= len(checkpoints) <= _MOST:
        raise ConfigError(f"an ensemble of {len(checkpoints)}", f"give 2 to {_MOST} checkpoints")
    if len(shares) != len(checkpoints):
        raise ConfigError(f"{len(shares)} weights for {len(checkpoints)} checkpoints", "give one for each")
    if not all(0 < share < 1e6 for share in shares):
        raise ConfigError(f"weights {list(shares)}", "give numbers above 0, and leave out who has none")
    first = checkpoints[0]
    for number, other in enumerate(checkpoints[1:], 2):
        if other.catalog.vocabulary.ids != first.catalog.vocabulary.ids:
            raise ArtifactError(f"checkpoint {number} knows other items than the first", "train all on the same data")
        if other.provenance.fingerprint != first.provenance.fingerprint:
            raise ArtifactError(f"checkpoint {number} has learned from other data", "train all on the same data")


def _check_fusion(fusion: FusionConfig | None, checkpoints: Sequence["Checkpoint"], config: PackConfig) -> None:
    if fusion is None:
        return
    n_items = len(checkpoints[0].catalog)
    if n_items > MOST_ITEMS:
        raise ConfigError(
            f"{n_items:,} items, which every member would have to order for every question",
            f"use weights, whose sum is one search, or {MOST_ITEMS:,} items at most",
        )
    if config.index not in ("auto", ExactConfig()):
        raise ConfigError("$.pack.index: fusion by ranks needs all scores", "use exact, or weights")
    if isinstance(fusion, Stacked) and len(fusion.ranks) != len(checkpoints):
        raise ConfigError(f"{len(fusion.ranks)} weights of ranks for {len(checkpoints)} models", "give one for each")


def _mean_square(network: "SequenceModel") -> float:
    """Of the lengths of item vectors."""
    import torch

    with torch.inference_mode():
        return max(float(network.item_vectors()[1:].float().square().sum(1).mean()), 1e-6)


def _member(checkpoint: "Checkpoint", network: "SequenceModel", share: float, error: float) -> Member:
    import torch

    from millirec.models.base import Stepwise
    from millirec.models.config import max_length

    model = msgspec.to_builtins(checkpoint.config)
    return Member(
        name=model["kind"],
        model=model,
        lineage=tuple(checkpoint.lineage),
        metrics=dict(checkpoint.metrics),
        inputs=network.inputs,
        max_length=max_length(checkpoint.config),
        dim=int(network.item_vectors(torch.zeros(1, dtype=torch.long)).shape[1]),
        parity_error=float(f"{error:.1e}"),
        share=float(share),
        state_size=network.state_size if isinstance(network, Stepwise) else 0,
    )


def _named(members: Sequence[Member]) -> list[Member]:
    names = [member.name for member in members]
    numbers = [names[: place + 1].count(name) for place, name in enumerate(names)]
    return [
        msgspec.structs.replace(member, name=member.name if number == 1 else f"{member.name}-{number}")
        for member, number in zip(members, numbers, strict=True)
    ]


def _joined(
    checkpoints: Sequence["Checkpoint"], networks: Sequence["SequenceModel"], shares: Sequence[float]
) -> tuple[Vectors, Vectors]:
    """Item vectors (n + 1, sum of d) and vectors of random histories, for measuring the index."""
    import torch

    from millirec.models.base import Inputs
    from millirec.models.config import max_length
    from millirec.models.export import random_batch

    n_items = len(checkpoints[0].catalog)
    width = min(20, *(max_length(checkpoint.config) for checkpoint in checkpoints))
    batch = Inputs.of(random_batch(n_items, 500, width, seed=0, popularity=checkpoints[0].popularity))
    with torch.inference_mode():
        items = [network.item_vectors().float() * share**0.5 for network, share in zip(networks, shares, strict=True)]
        users = [
            network.user_vectors(batch).float() * share**0.5 for network, share in zip(networks, shares, strict=True)
        ]
        return torch.cat(items, 1).numpy(), torch.cat(users, 1).numpy()


def _recall(built: Index, chosen: index.IndexConfig, vectors: Vectors, queries: Vectors) -> float:
    if isinstance(chosen, ExactConfig):
        return 1.0
    return round(index.recall(built, index.build(vectors, ExactConfig()), queries), 4)


def _told(first: "Checkpoint", config: PackConfig, members: Sequence[Member]) -> dict[str, Any]:
    inputs = {name for member in members for name in member.inputs}
    return {
        "schema": SCHEMA,
        "name": config.name or "ensemble",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "millirec": __version__,
        "model": {"kind": "ensemble"},
        "lineage": (),
        "provenance": first.provenance,
        "metrics": {},
        "inputs": tuple(sorted(inputs & FIELDS)),
        "max_length": max(member.max_length for member in members),
        "dim": sum(member.dim for member in members),
        "n_items": len(first.catalog),
        "cascade": config.cascade,
        "parity_error": max(member.parity_error for member in members),
        "members": tuple(members),
    }
