"""Bring your own model: an encoder made elsewhere, as ONNX, becomes a bundle like any other. Needs onnx, not torch."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from millirec import __version__, index
from millirec.bundle.manifest import SCHEMA
from millirec.bundle.packing import EXACT_BELOW, PackConfig, check_target, graph_arrays, kept_features, write
from millirec.bundle.read import FIELDS, Bundle
from millirec.data.catalog import Catalog
from millirec.data.encode import Batch
from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.lineage import Provenance, Step
from millirec.data.tensors import Array
from millirec.index import ExactConfig, PQConfig
from millirec.index.base import Floats
from millirec.models.graph import Graph

OUTPUT = "user_vectors"
_KINDS = {"items": ("int32", 2), "times": ("int64", 2), "lengths": ("int32", 1), "now": ("int64", 1)}
_TYPES = {"items": "tensor(int32)", "times": "tensor(int64)", "lengths": "tensor(int32)", "now": "tensor(int64)"}


class ForeignConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a graph from elsewhere does not say: how many events it reads at most, and whether to quantise it.

    `quantize` "int8": its matrix products are computed in integers, inputs scaled as they come (ONNX Runtime's own
    dynamic quantisation, unsigned weights).
    """

    max_length: int
    quantize: Literal["int8"] | None = None

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ConfigError(f"max_length = {self.max_length}", "choose at least 1")


class ForeignItems(NamedTuple):
    """The catalogue, and `vectors` float (n_items + 1, d) of its rows; row 0 is padding."""

    catalog: Catalog
    vectors: Floats


def pack_graph(
    path: Path, items: ForeignItems, folder: Path, foreign: ForeignConfig, config: PackConfig | None = None
) -> Bundle:
    """Pack the graph at `path`.

    Its inputs are among `items` int32 and `times` int64 (B, L), padded on the right with 0, `lengths` int32 and `now`
    int64 (B,); its output is `user_vectors` float32 (B, d). Batch and length must be free. Raises ConfigError and
    ArtifactError, before anything is written, for a graph that is not so or does not run.
    """
    config = config or PackConfig()
    check_target(folder)
    graph = _opened(path)
    inputs = _checked_inputs(graph, path)
    n_items = len(items.catalog)
    queries = _answers(graph, inputs, n_items, foreign.max_length)
    _check_vectors(items, queries.shape[1])
    error = 0.0
    if foreign.quantize is not None:
        graph = _quantized(graph)
        got = _answers(graph, inputs, n_items, foreign.max_length)
        error = float(np.abs(got - queries).max() / max(float(np.abs(queries).max()), 1e-12))
    vectors = items.vectors.astype(np.float32)
    chosen = config.index if config.index != "auto" else ExactConfig() if n_items <= EXACT_BELOW else PQConfig()
    built = index.build(vectors, chosen)
    told = _told(path, foreign, config) | {
        "inputs": inputs,
        "dim": int(vectors.shape[1]),
        "n_items": n_items,
        "parity_error": float(f"{error:.1e}"),
        "index": chosen,
        "index_recall": round(index.recall(built, index.build(vectors, ExactConfig()), queries), 4),
    }
    tensors: dict[str, Array] = graph_arrays("encoder", graph)
    tensors |= {f"index/{name}": array for name, array in built.arrays().items()}
    return write(
        folder, tensors | {"popularity": np.zeros(n_items + 1, np.int64)}, kept_features(items.catalog, config), told
    )


def _check_vectors(items: ForeignItems, width: int) -> None:
    shape, n_items = items.vectors.shape, len(items.catalog)
    if len(shape) != 2 or shape[0] != n_items + 1:
        raise ConfigError(
            f"item vectors of shape {shape} for {n_items:,} items",
            f"give ({n_items + 1}, d): a row for padding, then one for each id in order",
        )
    if shape[1] != width:
        raise ConfigError(f"the graph's {OUTPUT} are {width} wide, the item vectors {shape[1]}", "make them equal")


def _told(path: Path, foreign: ForeignConfig, config: PackConfig) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "name": config.name or path.stem,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "millirec": __version__,
        "model": {"kind": "foreign"},
        "lineage": (Step(name="foreign", settings={"graph": path.name} | msgspec.to_builtins(foreign)),),
        "provenance": Provenance(fingerprint="", protocol="none", n_events=0, trained_until=0),
        "metrics": {},
        "max_length": foreign.max_length,
        "cascade": config.cascade,
    }


def _opened(path: Path) -> Graph:
    """The graph, tried in the runtime. Raises ArtifactError when it cannot be read or has an unknown operator."""
    try:
        graph = Graph(str(path), path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})", "give an ONNX file") from error
    try:
        graph.session()
    except ArtifactError as error:
        raise ArtifactError(
            error.problem, "export it again with standard operators; its weights must lie in the same file"
        ) from error
    return _named(graph)


def _named(graph: Graph) -> Graph:
    """A single output is the user vectors whatever its name: Keras numbers them."""
    outputs = [tensor.name for tensor in graph.session().get_outputs()]
    if len(outputs) != 1 or outputs[0] == OUTPUT:
        return graph
    import onnx

    proto = onnx.load_from_string(graph.content)
    proto.graph.node.append(onnx.helper.make_node("Identity", outputs, [OUTPUT]))
    proto.graph.output[0].name = OUTPUT
    return Graph(graph.name, proto.SerializeToString())


def _checked_inputs(graph: Graph, path: Path) -> tuple[str, ...]:
    session = graph.session()
    inputs = {tensor.name: tensor for tensor in session.get_inputs()}
    if unknown := sorted(set(inputs) - FIELDS):
        raise ConfigError(
            f"{path}: input `{unknown[0]}` is unknown", f"name the inputs {', '.join(_TYPES)}, as far as it reads them"
        )
    if "items" not in inputs:
        raise ConfigError(f"{path}: no input is named `items`", "name the input of item rows so")
    for name, tensor in inputs.items():
        if tensor.type != _TYPES[name] or len(tensor.shape) != _KINDS[name][1]:
            raise ConfigError(
                f"{path}: input `{name}` is {tensor.type} with {len(tensor.shape)} axes",
                f"make it {_TYPES[name]} with {_KINDS[name][1]}",
            )
    outputs = [tensor.name for tensor in session.get_outputs()]
    if OUTPUT not in outputs:
        raise ConfigError(f"{path}: outputs {outputs}, none is named `{OUTPUT}`", "name the user vectors so")
    return tuple(name for name in _TYPES if name in inputs)


def _answers(graph: Graph, inputs: tuple[str, ...], n_items: int, max_length: int) -> Floats:
    """User vectors (7, d) of random histories. Raises ConfigError when the graph is tied to one batch or length."""
    rng, session, out = np.random.default_rng(0), graph.session(), []
    for size, length in ((1, 1), (2, max_length), (4, max(1, max_length // 2))):
        batch = _random_batch(rng, n_items, size, length)
        try:
            found = session.run([OUTPUT], {name: getattr(batch, name) for name in inputs})[0]
        except Exception as error:  # ONNX Runtime has no common class of errors
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"{graph.name}: does not run on {size} histories of {length} events ({reason})",
                "export it with batch and length free, or lower max_length",
            ) from error
        if found.ndim != 2 or len(found) != size or found.dtype != np.float32 or not np.isfinite(found).all():
            raise ConfigError(
                f"{graph.name}: {OUTPUT} of {size} histories are {found.dtype} {found.shape}",
                f"give finite float32 ({size}, d)",
            )
        out.append(found)
    return np.concatenate(out)


def _random_batch(rng: np.random.Generator, n_items: int, size: int, length: int) -> Batch:
    items = rng.integers(1, n_items + 1, (size, length)).astype(np.int32)
    times = np.cumsum(rng.integers(0, 86_400_000, (size, length)), axis=1) + 1_700_000_000_000
    return Batch(items, np.full(size, length, np.int32), times, times[:, -1] + 60_000)


def _quantized(graph: Graph) -> Graph:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        whole, made = Path(folder) / "whole.onnx", Path(folder) / "int8.onnx"
        whole.write_bytes(graph.content)
        # Unsigned weights: signed ones overflow on processors without dot products of bytes; see layers/linear.py
        quantize_dynamic(whole, made, weight_type=QuantType.QUInt8, per_channel=True)
        return Graph(f"{graph.name}, int8", made.read_bytes())
