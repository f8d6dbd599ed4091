"""`Runner`: the compiled forward pass of a bundle's encoder."""

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from millirec.data.encode import Batch
from millirec.data.errors import ArtifactError


class Runner:
    """An ONNX Runtime session on `threads` cores; `encode` may be called from several threads at once.

    Raises ArtifactError when the graph cannot be loaded.
    """

    def __init__(self, path: Path, inputs: tuple[str, ...], threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has no common class of errors
            raise ArtifactError(f"{path}: not a graph that runs ({error})", "pack the bundle again") from error
        declared = {tensor.name for tensor in self._session.get_inputs()}
        if missing := declared - set(inputs):
            raise ArtifactError(f"{path}: inputs {sorted(missing)} are not in the manifest", "pack it again")
        self._inputs = tuple(name for name in inputs if name in declared)

    def encode(self, batch: Batch) -> NDArray[np.float32]:
        """User vectors float32 (B, d) of a batch whose rows all have at least one event."""
        feed = {name: getattr(batch, name) for name in self._inputs}
        vectors: NDArray[np.float32] = self._session.run(("user_vectors",), feed)[0]
        return vectors
