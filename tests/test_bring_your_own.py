"""Graphs made elsewhere: packed, quantised, served like our own; refused by name when they do not fit."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from millirec.bundle import ForeignConfig, ForeignItems, open_bundle, pack_graph
from millirec.cascade.query import Query
from millirec.data.catalog import Catalog, Vocabulary
from millirec.data.errors import ArtifactError, ConfigError, MillirecError
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore
from millirec.index import ExactConfig

ROOT = Path(__file__).resolve().parents[1]
N_ITEMS, WIDTH = 12, 8
TABLE = np.random.default_rng(0).standard_normal((N_ITEMS + 1, WIDTH)).astype(np.float32)
ITEMS = ForeignItems(Catalog(Vocabulary([f"i{row}" for row in range(1, N_ITEMS + 1)])), TABLE)
LONG = ForeignConfig(max_length=6)


def graph(
    path: Path,
    *,
    items: tuple[str, int, list[Any]] = ("items", TensorProto.INT32, ["B", "L"]),
    output: str = "user_vectors",
    operator: str = "Identity",
) -> Path:
    """The sum of the rows of a history, through a matrix of ones on the diagonal."""
    name, kind, shape = items
    nodes = [
        helper.make_node("Gather", ["table", name], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axis"], ["sum"], keepdims=0),
        helper.make_node("MatMul", ["sum", "mix"], ["mixed"]),
        helper.make_node(operator, ["mixed"], [output]),
    ]
    padded = TABLE.copy()
    padded[0] = 0
    arrays = {"table": padded, "axis": np.array([1]), "mix": np.eye(WIDTH, dtype=np.float32)}
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "sum",
            [helper.make_tensor_value_info(name, kind, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, None])],
            [numpy_helper.from_array(array, key) for key, array in arrays.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
    )
    proto.ir_version = 10
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("output", ["user_vectors", "97"])
def test_a_graph_from_elsewhere_is_packed_and_answers(tmp_path: Path, output: str) -> None:
    pack_graph(graph(tmp_path / "sum.onnx", output=output), ITEMS, tmp_path / "b", LONG)
    bundle = open_bundle(tmp_path / "b")
    assert (bundle.name, bundle.inputs, bundle.max_length) == ("sum", ("items",), 6)
    assert bundle.manifest.index == ExactConfig()
    engine = Engine(bundle, StateStore(tmp_path / "state"))
    try:
        answer = engine.recommend(Query(items=("i3", "i5"), k=4))
    finally:
        engine.close()
    scores = TABLE @ (TABLE[3] + TABLE[5])
    scores[[0, 3, 5]] = -np.inf
    best = np.argsort(-scores)[:4]
    assert answer.items == tuple(f"i{row}" for row in best)
    assert answer.scores == pytest.approx(scores[best].tolist(), abs=1e-5)


def test_it_can_be_quantised(tmp_path: Path) -> None:
    plain = pack_graph(graph(tmp_path / "sum.onnx"), ITEMS, tmp_path / "a", LONG)
    small = pack_graph(
        graph(tmp_path / "sum.onnx"), ITEMS, tmp_path / "b", ForeignConfig(max_length=6, quantize="int8")
    )
    assert plain.manifest.parity_error == 0
    assert 0 < small.manifest.parity_error < 0.03
    kinds = {node.op_type for node in onnx.load_from_string(small.encoder.content).graph.node}
    assert "MatMulInteger" in kinds


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": ("basket", TensorProto.INT32, ["B", "L"])}, "input `basket` is unknown"),
        ({"items": ("lengths", TensorProto.INT32, ["B", "L"])}, "no input is named `items`"),
        ({"items": ("items", TensorProto.INT64, ["B", "L"])}, r"input `items` is tensor\(int64\)"),
        ({"items": ("items", TensorProto.INT32, [1, 6])}, "does not run on 1 histories of 1 events"),
        ({"operator": "Levitate"}, "not a graph that runs"),
    ],
    ids=["unknown", "missing", "type", "fixed shape", "operator"],
)
def test_graphs_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MillirecError, match=message) as caught:
        pack_graph(graph(tmp_path / "sum.onnx", **changes), ITEMS, tmp_path / "b", LONG)
    assert caught.value.mend
    assert [path.name for path in tmp_path.iterdir()] == ["sum.onnx"]


def test_vectors_that_do_not_fit(tmp_path: Path) -> None:
    path = graph(tmp_path / "sum.onnx")
    for vectors, message in ((TABLE[1:], "for 12 items"), (TABLE[:, :4], "are 8 wide, the item vectors 4")):
        with pytest.raises(ConfigError, match=message):
            pack_graph(path, ITEMS._replace(vectors=vectors), tmp_path / "b", LONG)
    with pytest.raises(ArtifactError, match="cannot be read"):
        pack_graph(tmp_path / "none.onnx", ITEMS, tmp_path / "b", LONG)
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match="not a graph that runs"):
        pack_graph(tmp_path / "bad.onnx", ITEMS, tmp_path / "b", LONG)


@pytest.mark.skipif(find_spec("keras") is None, reason="keras is not installed here: pip install keras")
def test_a_real_keras_model(tmp_path: Path) -> None:
    environment = os.environ | {"KERAS_BACKEND": "torch"}
    script = [sys.executable, str(ROOT / "examples" / "keras_model.py"), str(tmp_path)]
    subprocess.run(script, env=environment, check=True, capture_output=True)
    names = (tmp_path / "ids.txt").read_text().splitlines()
    items = ForeignItems(Catalog(Vocabulary(names)), np.load(tmp_path / "items.npy"))
    for quantize in (None, "int8"):
        config = ForeignConfig(max_length=20, quantize=quantize)
        bundle = pack_graph(tmp_path / "encoder.onnx", items, tmp_path / str(quantize), config)
        engine = Engine(bundle, StateStore(tmp_path / f"state-{quantize}"))
        try:
            for row in (5, 30):  # users walk a circle: the next item is the one behind
                history = tuple(f"item-{at}" for at in range(row - 4, row + 1))
                assert f"item-{row + 1}" in engine.recommend(Query(items=history, k=3)).items
        finally:
            engine.close()
