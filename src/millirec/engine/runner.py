"""`Runner`: the compiled forward pass of a bundle's encoder, and of its single step where it has one."""

import numpy as np
from numpy.typing import NDArray

from millirec.data.encode import Batch
from millirec.data.errors import ArtifactError
from millirec.models.graph import Graph

Vectors = NDArray[np.float32]


class Runner:
    """ONNX Runtime sessions on `threads` cores; its methods may be called from several threads at once.

    `step`: the graph that goes on from a state by one event, None when there is none. `carries`: the encoder tells
    the state that a history leaves, so that `step` can go on from there.

    Raises ArtifactError when a graph cannot be loaded.
    """

    def __init__(self, encoder: Graph, inputs: tuple[str, ...], threads: int = 1, step: Graph | None = None) -> None:
        self._session = encoder.session(threads)
        declared = {tensor.name for tensor in self._session.get_inputs()}
        if missing := declared - set(inputs):
            raise ArtifactError(f"{encoder.name}: inputs {sorted(missing)} are not in the manifest", "pack it again")
        self._inputs = tuple(name for name in inputs if name in declared)
        told = {tensor.name for tensor in self._session.get_outputs()}
        self._step = step.session(threads) if step is not None and "state" in told else None
        self._step_inputs = tuple(tensor.name for tensor in self._step.get_inputs()) if self._step else ()

    @property
    def carries(self) -> bool:
        """Whether `read` and `step` can be called."""
        return self._step is not None

    def encode(self, batch: Batch) -> Vectors:
        """User vectors float32 (B, d) of a batch whose rows all have at least one event."""
        feed = {name: getattr(batch, name) for name in self._inputs}
        vectors: Vectors = self._session.run(("user_vectors",), feed)[0]
        return vectors

    def read(self, batch: Batch) -> tuple[Vectors, Vectors]:
        """As `encode`, and the states float32 (B, s) that the newest events met."""
        feed = {name: getattr(batch, name) for name in self._inputs}
        vectors, states = self._session.run(("user_vectors", "state"), feed)
        return vectors, states

    def step(
        self, state: Vectors, items: NDArray[np.int32], times: NDArray[np.int64], now: NDArray[np.int64]
    ) -> tuple[Vectors, Vectors]:
        """Vectors (B, d) and next states (B, s) from states (B, s) and one event each, asked at `now`; all (B,)."""
        if self._step is None:
            raise ArtifactError("the bundle has no step to go on by", "pack a model that carries a state")
        feed = {"state": state, "items": items, "times": times, "now": now}
        vectors, states = self._step.run(
            ("user_vectors", "next_state"), {name: feed[name] for name in self._step_inputs}
        )
        return vectors, states
