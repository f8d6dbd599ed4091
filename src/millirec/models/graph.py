"""`Graph`: a compiled network without the arrays that it computes with. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnxruntime

from millirec.data.errors import ArtifactError
from millirec.data.tensors import Array


@dataclass(frozen=True)
class Graph:
    """ONNX as bytes, and the arrays by name that it leaves out: several graphs and an index share them in memory.

    `name` stands in messages.
    """

    name: str
    content: bytes
    tensors: Mapping[str, Array] = field(default_factory=dict)

    def session(self, threads: int = 1) -> onnxruntime.InferenceSession:
        """A session on `threads` cores. Raises ArtifactError when the graph cannot be run with these arrays."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        try:
            if self.tensors:
                values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in self.tensors.values()]
                options.add_external_initializers(list(self.tensors), values)
            return onnxruntime.InferenceSession(self.content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has no common class of errors
            raise ArtifactError(f"{self.name}: not a graph that runs ({error})", "pack the bundle again") from error
