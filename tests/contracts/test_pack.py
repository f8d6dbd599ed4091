"""Every sequence model of the union can be packed, and its graph says what its network says."""

from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
import torch

from millirec.bundle import open_bundle, pack
from millirec.models.base import Inputs, SequenceModel
from millirec.models.config import ModelConfig, build
from millirec.models.export import random_batch
from tests.bundles import untrained

SMALL: dict[str, Any] = {"embedding_dim": 8, "hidden_dim": 12, "heads": 2, "blocks": 2, "layers": 2, "max_length": 12}


def small(kind: type[Any]) -> Any:
    names = {field.name for field in msgspec.structs.fields(kind)}
    return kind(**{name: value for name, value in SMALL.items() if name in names})


CONFIGS = [small(kind) for kind in get_args(ModelConfig) if isinstance(build(small(kind), 5), SequenceModel)]


def test_there_are_sequence_models() -> None:
    assert {"sasrec", "gru4rec"} <= {msgspec.to_builtins(config)["kind"] for config in CONFIGS}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_the_graph_says_what_the_network_says(config: Any, tmp_path: Path) -> None:
    checkpoint = untrained(40, config)
    generator = torch.Generator().manual_seed(0)
    for parameter in checkpoint.parameters.values():  # far from the small numbers of a fresh network
        if parameter.is_floating_point():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    bundle = pack(checkpoint, tmp_path / "b")
    assert bundle.manifest.parity_error < 1e-5
    assert bundle.manifest.model == msgspec.to_builtins(config)
    network = checkpoint.network()
    session = open_bundle(tmp_path / "b").encoder.session()
    assert tuple(tensor.name for tensor in session.get_inputs()) == bundle.inputs
    for seed, (size, width) in enumerate([(1, 1), (1, 12), (2, 3), (5, 1), (9, 7), (33, 12)]):
        batch = random_batch(40, size, width, seed)
        with torch.inference_mode():
            want = network.user_vectors(Inputs.of(batch)).numpy()  # type: ignore[operator]
        feed = {name: getattr(batch, name) for name in bundle.inputs}
        (got,) = session.run(["user_vectors"], feed)
        assert got.dtype == np.float32
        allowed = 1e-4 * float(np.abs(want).max())
        assert np.abs(got - want).max() <= allowed
        # a row says the same alone, cut to its own length
        n = int(batch.lengths[-1])
        alone = {name: value[-1:] if value.ndim == 1 else value[-1:, :n] for name, value in feed.items()}
        assert session.run(None, alone)[0] == pytest.approx(want[-1:], abs=allowed)
