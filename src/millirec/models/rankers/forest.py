"""Grown trees as one node of ONNX-ML: `TreeEnsemble` of ai.onnx.ml 5, which ONNX Runtime walks in compiled code."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from millirec.models.graph import Graph
from millirec.models.rankers.trees import Trees

_LEQ, _MEMBER = 0, 6  # modes of a node: value <= split, value among its members
_SUM, _AS_IT_IS = 1, 0
_DOMAIN = "ai.onnx.ml"


def with_trees(reader: Graph, trees: Trees, asked: str, output: str) -> Graph:
    """The graph whose output `asked` (n, columns) is what trees ask, and the trees behind it: `output` float32 (n,)."""
    proto = onnx.load_from_string(reader.content)
    graph = proto.graph
    column = onnx.helper.make_tensor("trees_axis", onnx.TensorProto.INT64, [1], [1])
    graph.initializer.append(column)
    graph.node.append(onnx.helper.make_node("TreeEnsemble", [asked], ["trees_sum"], domain=_DOMAIN, **_told(trees)))
    graph.node.append(onnx.helper.make_node("Squeeze", ["trees_sum", "trees_axis"], [output]))
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["rows"]))
    if _DOMAIN not in {opset.domain for opset in proto.opset_import}:
        proto.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 5))
    return Graph(reader.name, proto.SerializeToString(), reader.tensors)


def _told(trees: Trees) -> dict[str, Any]:
    """The attributes of the node. Questions and leaves are numbered through all trees."""
    names = ("column", "below", "left", "right", "words", "leaves")
    column, below, left, right, words, leaves = (getattr(trees, name).cpu().numpy() for name in names)
    n_trees, n = left.shape
    starts = np.arange(n_trees)[:, None] * n
    left, right, every = (left + starts).ravel(), (right + starts).ravel(), np.arange(n_trees * n)
    ends = left == every
    asks = ~ends
    asks[starts] = True  # a tree of one leaf asks something, and either way leads there
    question, leaf, asking = np.cumsum(asks) - 1, np.cumsum(ends) - 1, np.flatnonzero(asks)
    words = words.reshape(-1, 2)[asking]
    sets, is_set = [_members(trees, *pair) for pair in words.tolist() if pair[1]], words[:, 1] > 0
    told = {
        "n_targets": 1,
        "aggregate_function": _SUM,
        "post_transform": _AS_IT_IS,
        "tree_roots": question[starts.ravel()].tolist(),
        "nodes_featureids": column.ravel()[asking].tolist(),
        "nodes_splits": _tensor(np.where(is_set, 0, below.ravel()[asking]).astype(np.float32)),
        "nodes_modes": _tensor(np.where(is_set, _MEMBER, _LEQ).astype(np.uint8)),
        "leaf_targetids": [0] * int(ends.sum()),
        "leaf_weights": _tensor(leaves.ravel()[ends].astype(np.float32)),
    }
    for name, way in (("true", left[asking]), ("false", right[asking])):
        told[f"nodes_{name}nodeids"] = np.where(ends[way], leaf[way], question[way]).tolist()
        told[f"nodes_{name}leafs"] = ends[way].astype(int).tolist()
    if sets:
        told["membership_values"] = _tensor(np.concatenate(sets))
    return told


def _members(trees: Trees, begins: int, words: int) -> NDArray[np.float32]:
    """The ids of a set, and the NaN that ends it."""
    bits = trees.sets[begins : begins + words].cpu().numpy().astype(np.uint32)
    ids = np.flatnonzero((bits[:, None] >> np.arange(32, dtype=np.uint32)) & 1)
    return np.append(ids.astype(np.float32), np.float32(np.nan))


def _tensor(array: NDArray[Any]) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.ascontiguousarray(array))
