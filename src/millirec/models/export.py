"""The encoder of a sequence model as an ONNX graph, and the proof that both say the same."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.external_data_helper import set_external_data
from torch import Tensor, nn

from millirec.data.encode import Batch
from millirec.data.errors import ArtifactError
from millirec.data.tensors import Array
from millirec.models.base import Carried, Inputs, SequenceModel, Stepwise
from millirec.models.graph import Graph
from millirec.models.operators import TRANSLATIONS, register_traced

_SHAPES = {"items": ("batch", "length"), "lengths": ("batch",), "times": ("batch", "length"), "now": ("batch",)}
OUTPUT, LEFT, STATE = "user_vectors", "state", "next_state"
# 23 has an Attention operator: a fifth faster than the same in single steps. Tracing knows operators up to 20.
_OPSET, _TRACED_OPSET = 23, 20
DYNAMO = {
    "dynamo": True,
    "opset_version": _OPSET,
    "external_data": True,
    "custom_translation_table": TRANSLATIONS,
}
_SMALL = 64  # bytes of an array that stays in the graph


class _Encoder(nn.Module):
    """`user_vectors`, and the states where there are some, as a function of tensors.

    Fields that the network does not read are zeros.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, items: Tensor, lengths: Tensor | None = None, times: Tensor | None = None, now: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        inputs = Inputs(
            items,
            items.new_zeros(items.shape[0]) if lengths is None else lengths,
            torch.zeros_like(items, dtype=torch.int64) if times is None else times,
            items.new_zeros(items.shape[0], dtype=torch.int64) if now is None else now,
        )
        whole = self.network.prefill if isinstance(self.network, Carried) else self.network.user_vectors
        out: Tensor | tuple[Tensor, Tensor] = whole(inputs)  # type: ignore[operator]
        return out


class _Step(nn.Module):
    """`step` as the forward pass of a module."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, state: Tensor, items: Tensor, times: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = self.network.step(state, items, times, now)  # type: ignore[operator]
        return out


def random_batch(n_items: int, size: int, width: int, seed: int, popularity: NDArray[np.int64] | None = None) -> Batch:
    """Random histories (size, width) with at least one of full length, drawn by popularity when it is given."""
    rng = np.random.default_rng(seed)
    chances = None
    if popularity is not None:
        chances = (popularity[1:] + 1) / (popularity[1:] + 1).sum()
    items = (rng.choice(n_items, (size, width), p=chances) + 1).astype(np.int32)
    lengths = rng.integers(1, width + 1, size, np.int32)
    lengths[0] = width
    times = np.cumsum(rng.integers(0, 86_400_000, (size, width)), axis=1) + 1_700_000_000_000
    padding = np.arange(width) >= lengths[:, None]
    now = times[np.arange(size), lengths - 1] + rng.integers(0, 86_400_000, size)
    return Batch(np.where(padding, 0, items).astype(np.int32), lengths, np.where(padding, 0, times), now)


def export(model: SequenceModel, n_items: int) -> Graph:
    """The graph of `user_vectors`: inputs as in `model.inputs`, batch and length free; its arrays come apart.

    For a `Carried` model the graph has a second output, the `state` of each history.

    Raises ArtifactError when the network cannot be written so.
    """
    if not isinstance(model, nn.Module):
        raise TypeError("a sequence model is an nn.Module")
    batch = Inputs.of(random_batch(n_items, 3, 7, seed=0))
    settings: dict[str, Any] = {
        "kwargs": {name: getattr(batch, name) for name in model.inputs},
        "input_names": list(model.inputs),
        "output_names": [OUTPUT, LEFT] if isinstance(model, Carried) else [OUTPUT],
    }
    shapes = {name: dict(enumerate(_SHAPES[name])) for name in model.inputs}
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        # torch.export unrolls a recurrent layer over the length of the example; tracing keeps it whole
        register_traced(_TRACED_OPSET)
        settings |= {"dynamo": False, "opset_version": _TRACED_OPSET, "dynamic_axes": shapes | {OUTPUT: {0: "batch"}}}
    else:
        settings |= {"dynamic_shapes": shapes, **DYNAMO}
    return written(_Encoder(model), "encoder", settings)


def export_step(model: Stepwise, n_items: int) -> Graph:
    """The graph of `step`: `state`, `items`, `times`, `now` in; `user_vectors` and `next_state` out.

    The number of rows is free. Raises ArtifactError when the network cannot be written so.
    """
    if not isinstance(model, nn.Module):
        raise TypeError("a sequence model is an nn.Module")
    batch = Inputs.of(random_batch(n_items, 3, 1, seed=0))
    names = ("state", "items", "times", "now")
    fields = (torch.zeros(3, model.state_size), batch.items[:, 0], batch.times[:, 0], batch.now)
    settings: dict[str, Any] = {
        "kwargs": dict(zip(names, fields, strict=True)),
        "input_names": list(names),
        "output_names": [OUTPUT, STATE],
        "dynamic_shapes": {name: {0: "batch"} for name in names},
        **DYNAMO,
    }
    return written(_Step(model), "step", settings)


def written(module: nn.Module, name: str, settings: dict[str, Any]) -> Graph:
    """The graph of a module, its arrays apart. Raises ArtifactError when it cannot be written so."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with tempfile.TemporaryDirectory() as folder:
                whole = Path(folder) / "graph.onnx"
                torch.onnx.export(module.eval(), (), whole, verbose=False, **settings)
                proto = onnx.load(str(whole))
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ArtifactError(f"the network cannot be written as a graph: {reason}") from error
    finally:
        logger.setLevel(level)
    tensors = _taken_out(_plain(proto))
    return Graph(name, proto.SerializeToString(), tensors)


def _taken_out(proto: onnx.ModelProto) -> dict[str, Array]:
    """The arrays of a graph by name; in it remain their types and shapes. Equal arrays get one name each."""
    tensors = {}
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.nbytes >= _SMALL and array.dtype.kind in "fiub":
            tensors[tensor.name] = array
            tensor.raw_data = b""  # what `set_external_data` asks for
            set_external_data(tensor, "tensors")
            tensor.ClearField("raw_data")
    return tensors


def parity_error(model: SequenceModel, graph: Graph, n_items: int, max_length: int) -> float:
    """The largest difference between graph and network over random batches, relative to the largest number.

    Batches of 1 to 7 histories of 1, 2, ... `max_length` events, with padding where lengths differ. NaN in
    either counts as infinite.
    """
    session = graph.session()
    worst = 0.0
    widths = sorted({1, 2, max(1, max_length // 2), max_length})
    for seed, (size, width) in enumerate((size, width) for size in (1, 2, 7) for width in widths):
        batch = random_batch(n_items, size, width, seed)
        with torch.inference_mode(), one_thread():
            inputs = Inputs.of(batch)
            wants = model.prefill(inputs) if isinstance(model, Carried) else (model.user_vectors(inputs),)
        gots = session.run(None, {name: getattr(batch, name) for name in model.inputs})
        errors = [difference(got, want.numpy()) for got, want in zip(gots, wants, strict=True)]
        worst = max(worst, *errors)
    return worst


def step_parity_error(model: SequenceModel, graph: Graph, n_items: int, max_length: int) -> float:
    """The largest difference between single steps of the graph and the whole path of the network.

    Seven random histories of up to `max_length` events are taken in one event at a time; relative to the largest
    number, NaN counts as infinite.
    """
    session = graph.session()
    state_size = session.get_inputs()[0].shape[1]
    declared = {tensor.name for tensor in session.get_inputs()}
    batch = random_batch(n_items, 7, min(max_length, 50), seed=0)
    width = batch.items.shape[1]
    following = np.concatenate([batch.times[:, 1:], batch.now[:, None]], axis=1)
    following[np.arange(7), batch.lengths - 1] = batch.now
    state, got = np.zeros((7, state_size), np.float32), np.zeros((7, 0), np.float32)
    for at in range(width):
        feed = {"items": batch.items[:, at], "times": batch.times[:, at], "now": following[:, at], "state": state}
        vectors, state = session.run([OUTPUT, STATE], {name: feed[name] for name in declared})
        got = np.where(at < batch.lengths[:, None], vectors, got if at else vectors)
    with torch.inference_mode(), one_thread():
        want = model.user_vectors(Inputs.of(batch)).numpy()
    return difference(got, want)


def difference(got: NDArray[np.float32], want: NDArray[np.float32]) -> float:
    """The largest difference relative to the largest number wanted; another shape or NaN is infinitely far."""
    if got.shape != want.shape:
        return np.inf
    error = float(np.abs(got - want).max() / max(float(np.abs(want).max()), 1e-12))
    return error if np.isfinite(error) else np.inf


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """The last digit depends on how many threads share a sum; a figure in a manifest must not."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _plain(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Without notes about the machine that made it, such as paths: the same network gives the same bytes."""
    proto.doc_string = ""
    for holder in (proto, proto.graph, *proto.graph.node, *proto.functions):
        del holder.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
    for node in proto.graph.node:
        node.doc_string, node.name = "", ""
    del proto.graph.value_info[:]  # types that are inferred again
    return proto
