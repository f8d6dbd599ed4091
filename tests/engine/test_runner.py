"""The compiled forward pass says what the network says."""

import numpy as np
import pytest
import torch

from millirec.bundle import Bundle
from millirec.data.encode import encode
from millirec.data.errors import ArtifactError
from millirec.engine.runner import Runner
from millirec.models.base import Inputs
from millirec.models.checkpoint import Checkpoint
from millirec.models.graph import Graph


def test_the_graph_says_what_the_network_says(bundle: Bundle, checkpoint: Checkpoint) -> None:
    rng = np.random.default_rng(0)
    histories = [rng.integers(1, 61, n).astype(np.int32) for n in (1, 3, 20, 20)]
    batch = encode(histories, None, 20)
    with torch.inference_mode():
        expected = checkpoint.network().user_vectors(Inputs.of(batch)).numpy()
    np.testing.assert_allclose(Runner(bundle.encoder, bundle.inputs).encode(batch), expected, atol=1e-5)


def test_a_graph_that_does_not_run_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ArtifactError, match="not a graph that runs"):
        Runner(Graph("x", b"not a graph"), ("items",))
    with pytest.raises(ArtifactError, match=r"inputs \['lengths'\] are not in the manifest"):
        Runner(bundle.encoder, ("items",))
