"""What a bundle's graphs are made of once the runtime has them."""

import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import onnxruntime

from millirec.models.graph import Graph


def kernels(graphs: Iterable[Graph | None]) -> dict[str, int]:
    """The operators that ONNX Runtime runs for these graphs, how often each occurs, most frequent first.

    After the runtime's own optimisation. Integer arithmetic shows here as MatMulInteger, MatMulIntegerToFloat,
    DynamicQuantizeMatMul and the like.
    """
    found: Counter[str] = Counter()
    for graph in graphs:
        if graph is not None:
            found.update(_operators(graph))
    return dict(found.most_common())


def _operators(graph: Graph) -> Counter[str]:
    import onnx  # part of the workshop's install only

    with tempfile.TemporaryDirectory() as folder:
        path, options = Path(folder) / "optimised.onnx", onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "tensors")
        if graph.tensors:
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in graph.tensors.values()]
            options.add_external_initializers(list(graph.tensors), values)
        onnxruntime.InferenceSession(graph.content, options, providers=["CPUExecutionProvider"])
        return Counter(_named(onnx.load(str(path), load_external_data=False).graph))


def _named(graph: object) -> list[str]:
    """The operators of a graph, of those inside its loops and branches too."""
    names = []
    for node in graph.node:  # type: ignore[attr-defined]
        names.append(node.op_type)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                names += _named(attribute.g)
    return names
