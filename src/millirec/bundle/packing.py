"""`pack`: a checkpoint becomes a bundle. Needs torch, which is imported when it is called."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec import __version__, index
from millirec.bundle.counts import Beside, check_beside, counts_arrays
from millirec.bundle.manifest import MANIFEST, SCHEMA, TENSORS, Manifest, entry_of, sealed
from millirec.bundle.rank_packing import RankerPart, write_ranker
from millirec.bundle.ranker import PRE_RANKER, RANKER
from millirec.bundle.read import KNOWN_FILES, Bundle, open_bundle
from millirec.cascade.cascade import CascadeConfig, check_features, check_rankers
from millirec.cascade.fields import Fields
from millirec.cascade.scorers import InnerProductScorer, PreRankerScorer, RankerScorer
from millirec.data.catalog import Catalog
from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.folder import new_folder
from millirec.data.tensors import Array, save_tensors
from millirec.index import ExactConfig, Index, IndexConfig, PQConfig, TableIndex, TableIndexConfig
from millirec.index.product import ProductIndex, ProductIndexConfig
from millirec.index.tiered import TieredIndex, TieredIndexConfig
from millirec.models.graph import Graph

if TYPE_CHECKING:
    from millirec.models.base import SequenceModel
    from millirec.models.checkpoint import Checkpoint

EXACT_BELOW = 50_000  # items: from there on the compressed index is more than twice as fast
_TOLERANCE = {"int8": 0.2, "int8-static": 0.2}
DECODED_BELOW = 200_000  # items: vectors that are decoded at loading take no more room than all else


class PackConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a checkpoint becomes a bundle.

    `name`: None = the kind of the model. `index`: "auto" = the model's own item table where that is compressed,
    otherwise exact below 50,000 items, else compressed. `tolerance`: the largest difference between graph and network,
    relative to the largest number; None = 1e-4, and 0.2 for weights of int8, where a number that lies between two
    levels may fall to either side. `features`: the catalogue's features that the bundle keeps, for `where` and the
    like; None = all of them.
    """

    name: str | None = None
    index: IndexConfig | Literal["auto"] = "auto"
    cascade: CascadeConfig = msgspec.field(default_factory=CascadeConfig)
    tolerance: float | None = None
    features: tuple[str, ...] | None = None

    def ranked(self, *, pre: bool = False) -> "PackConfig":
        """With a ranker, and with a pre-ranker before it, at the end of a cascade that is the default one."""
        if self.cascade != CascadeConfig():
            return self
        scorers = (*self.cascade.scorers, *((PreRankerScorer(),) if pre else ()), RankerScorer())
        return msgspec.structs.replace(self, cascade=msgspec.structs.replace(self.cascade, scorers=scorers))

    def unranked(self) -> "PackConfig":
        """Without the rankers, where the cascade has some: retrieval alone."""
        if self.cascade.ranker is None:
            return self
        scorers = tuple(scorer for scorer in self.cascade.scorers if isinstance(scorer, InnerProductScorer))
        return msgspec.structs.replace(self, cascade=msgspec.structs.replace(self.cascade, scorers=scorers))

    def __post_init__(self) -> None:
        if self.name is not None and not self.name.strip():
            raise ConfigError("$.pack.name is empty", "give a name, or leave it out")
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise ConfigError(f"$.pack.tolerance = {self.tolerance}", "choose a number between 0 and 1")


def pack(
    checkpoint: "Checkpoint",
    folder: Path,
    config: PackConfig | None = None,
    ranker: RankerPart | None = None,
    beside: Sequence[Beside] = (),
) -> Bundle:
    """Export the encoder, check it against the network, build the index, and write the bundle at once.

    A `ranker` becomes the last scorer of the cascade, unless `config` has a cascade of its own. What is counted
    `beside` the network adds to its scores. An older bundle in its place is replaced. Raises ConfigError for a model
    without user vectors, for a ranker of other items, for one that learned from scores without counts, and for a model
    beside it that does not count; ArtifactError for counts of other data, when `folder` holds something else, or when a
    graph says something else than its network.
    """
    import torch

    from millirec.models.base import Stepwise

    config = config or PackConfig()
    check_target(folder)
    check_beside(checkpoint, [one.checkpoint for one in beside])
    if ranker is not None:
        if beside:
            raise ConfigError("counts and a ranker: it has learned from scores without them", "leave one of them out")
        ranker.check(checkpoint.catalog)
        config = config.ranked(pre=ranker.pre is not None)
    catalog = kept_features(checkpoint.catalog, config, ranker)
    network = network_of(checkpoint)
    with torch.inference_mode():
        vectors = network.item_vectors().float().numpy()
    tensors, error = exported(network, checkpoint, config)
    chosen, arrays, recall = _build_index(network, vectors, checkpoint, config)
    counted, entries = counts_arrays(beside)
    told = _described(checkpoint, config, network) | {
        "counts": entries,
        "dim": vectors.shape[1],
        "parity_error": float(f"{error:.1e}"),
        "index": chosen,
        "index_recall": round(recall, 4),
        "state_size": network.state_size if isinstance(network, Stepwise) else 0,
    }
    tensors |= {f"index/{name}": array for name, array in arrays.items()} | counted
    return write(folder, tensors | {"popularity": checkpoint.popularity.astype(np.int64)}, catalog, told, ranker)


def network_of(checkpoint: "Checkpoint") -> "SequenceModel":
    """The network. Raises ConfigError for a model without user vectors."""
    from millirec.models.base import SequenceModel

    network = checkpoint.network()
    if not isinstance(network, SequenceModel):
        kind = msgspec.to_builtins(checkpoint.config)["kind"]
        raise ConfigError(
            f'$.model.kind = "{kind}" has no user vectors to serve', "pack a sequence model, such as sasrec"
        )
    return network


def kept_features(catalog: Catalog, config: PackConfig, ranker: RankerPart | None = None) -> Catalog:
    """The catalogue as the bundle keeps it.

    Raises ConfigError for a feature that it does not have, and for one or a ranker that the cascade asks for in vain.
    """
    has_pre_ranker = ranker is not None and ranker.pre is not None
    check_rankers(config.cascade, has_ranker=ranker is not None, has_pre_ranker=has_pre_ranker)
    kept = _kept(catalog, config)
    check_features(config.cascade, Fields(kept).names())
    return kept


def _kept(catalog: Catalog, config: PackConfig) -> Catalog:
    if config.features is None:
        return catalog
    if unknown := [name for name in config.features if name not in catalog.features]:
        raise ConfigError(
            f"$.pack.features: the catalogue has no {unknown[0]!r}",
            f"name some of {', '.join(catalog.features) or 'none'}",
        )
    return Catalog(catalog.vocabulary, {name: catalog.features[name] for name in config.features})


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


def exported(network: "SequenceModel", checkpoint: "Checkpoint", config: PackConfig) -> tuple[dict[str, Array], float]:
    """The graphs and their arrays, and the largest difference to the network."""
    from millirec.models.base import Stepwise
    from millirec.models.config import max_length
    from millirec.models.export import export, export_step, parity_error, step_parity_error

    n_items, longest = len(checkpoint.catalog), max_length(checkpoint.config)
    graph = export(network, n_items)
    tensors = graph_arrays("encoder", graph)
    error = parity_error(network, graph, n_items, longest)
    if isinstance(network, Stepwise):
        graph = export_step(network, n_items)
        tensors |= graph_arrays("step", graph)
        error = max(error, step_parity_error(network, graph, n_items, longest))
    tolerance = config.tolerance if config.tolerance is not None else _TOLERANCE.get(_weights(checkpoint), 1e-4)
    if not error <= tolerance:
        raise ArtifactError(
            f"the exported graph differs from the network by {error:.1e} of its largest number, "
            f"allowed is {tolerance:.1e}",
            "check the parameters for NaN and huge values, or train again",
        )
    return tensors, error


def graph_arrays(name: str, graph: Graph) -> dict[str, Array]:
    """A graph and its arrays, as a bundle names them."""
    whole = {f"{name}/{key}": array for key, array in graph.tensors.items()}
    return whole | {name: np.frombuffer(graph.content, np.uint8)}


def _weights(checkpoint: "Checkpoint") -> str:
    return getattr(checkpoint.config, "weights", "fp32")


def _build_index(
    network: "SequenceModel", vectors: NDArray[np.float32], checkpoint: "Checkpoint", config: PackConfig
) -> tuple[IndexConfig, dict[str, Array], float]:
    """The index and its arrays; its recall@10 is measured with vectors of random histories."""
    import torch

    from millirec.models.base import Inputs
    from millirec.models.config import max_length
    from millirec.models.export import random_batch

    by_size = ExactConfig() if len(vectors) <= EXACT_BELOW else PQConfig()
    chosen = by_size if config.index == "auto" else config.index
    if config.index == "auto" and (made := _index_of_table(checkpoint)) is not None:
        return made[0], made[1].arrays(), 1.0
    built = index.build(vectors, chosen)
    if isinstance(chosen, ExactConfig):
        return chosen, built.arrays(), 1.0
    width = min(20, max_length(checkpoint.config))
    batch = random_batch(len(vectors) - 1, 500, width, seed=0, popularity=checkpoint.popularity)
    with torch.inference_mode():
        queries = network.user_vectors(Inputs.of(batch)).float().numpy()
    return chosen, built.arrays(), index.recall(built, index.build(vectors, ExactConfig()), queries)


def _index_of_table(checkpoint: "Checkpoint") -> tuple[IndexConfig, Index] | None:
    """The index that reads the network's own item table; None for a table of floats, and where it would not pay."""
    from millirec.models.base import NetworkConfig
    from millirec.models.layers.table import Hashed, LowRank, Product, Quantized, Tiered

    model, n_items = checkpoint.config, len(checkpoint.catalog)
    if not isinstance(model, NetworkConfig):
        return None
    arrays = {
        name.removeprefix("item."): tensor.numpy()
        for name, tensor in checkpoint.parameters.items()
        if name.startswith("item.")
    }
    unit = getattr(model, "temperature", None) is not None
    match model.table:
        case Product(codes=codes, bits=bits):
            product = ProductIndexConfig(codes=codes, bits=bits)
            return product, ProductIndex(arrays["codes"], arrays["centroids"])
        case Quantized(bits=bits):
            config = TableIndexConfig(table="quantized", bits=bits, unit=unit)
        case Tiered(fine_codes=fine_codes, bits=bits, codes=codes, code_bits=code_bits) if fine_codes:
            if not 0 < model.table.fine(n_items) < n_items:
                return None
            tiers = TieredIndexConfig(fine_codes=fine_codes, bits=bits, codes=codes, code_bits=code_bits)  # type: ignore[arg-type]
            return tiers, TieredIndex.of_table(arrays)
        case Tiered(bits=bits):
            config = TableIndexConfig(table="tiered", bits=bits, unit=unit)
        case LowRank():
            config = TableIndexConfig(table="low-rank", unit=unit)
        case Hashed(way=way, hashes=hashes):
            config = TableIndexConfig(table=way, hashes=hashes, unit=unit)
        case _:
            return None
    return (config, TableIndex(arrays, n_items, config)) if n_items <= DECODED_BELOW else None


def write(
    folder: Path,
    tensors: dict[str, Array],
    catalog: Catalog,
    told: dict[str, Any],
    ranker: RankerPart | None = None,
) -> Bundle:
    """A bundle of these arrays; `told` holds all fields of the manifest but the files, hashes and the ranker."""
    folder = folder.resolve()
    with new_folder(folder) as new:
        save_tensors(tensors, new / TENSORS)
        catalog.save(new)
        if ranker is not None:
            told = told | {"ranker": write_ranker(new, RANKER, ranker)}
            if ranker.pre is not None:
                told |= {"pre_ranker": write_ranker(new, PRE_RANKER, ranker.pre)}
        for path in new.iterdir():
            path.chmod(0o644)  # safetensors writes for the owner only; who packs is not always who serves
        manifest = Manifest(**told, files={path.name: entry_of(path) for path in sorted(new.iterdir())})
        fields = msgspec.to_builtins(manifest)
        for name in ("members", "fusion", "ranker", "pre_ranker", "counts"):
            if not fields[name]:
                del fields[name]  # hashed as it was before there were any
        whole = sealed(fields)
        (new / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(whole), indent=1))
        bundle = open_bundle(new)
    return replace(bundle, folder=folder)


def check_target(folder: Path) -> None:
    """Only a bundle is replaced, so that a mistyped path costs nobody a folder."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is a file", "name a folder for the bundle")
    if foreign := sorted(path.name for path in folder.iterdir() if path.name not in KNOWN_FILES):
        raise ArtifactError(f"{folder} is no bundle: it holds `{foreign[0]}`", "name a new folder for the bundle")
