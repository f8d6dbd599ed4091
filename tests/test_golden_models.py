"""Checkpoints and bundles of every kind, as version 1 wrote them, are read and answer as they did then."""

import json
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest

from millirec.bundle import open_bundle
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig
from scripts.make_golden_models import answers, encoded

MODELS = Path(__file__).parent / "golden" / "v1" / "models"
KINDS = [msgspec.to_builtins(kind())["kind"] for kind in get_args(ModelConfig)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_answers_as_ever(kind: str) -> None:
    expected = json.loads((MODELS / kind / "expected.json").read_text(encoding="utf-8"))
    checkpoint = Checkpoint.load(MODELS / kind / "checkpoint")
    np.testing.assert_allclose(answers(checkpoint), expected["scores"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if (MODELS / kind / "bundle").exists()])
def test_a_bundle_answers_as_ever(kind: str) -> None:
    expected = json.loads((MODELS / kind / "expected.json").read_text(encoding="utf-8"))
    bundle = open_bundle(MODELS / kind / "bundle")
    assert bundle.version == expected["version"]
    np.testing.assert_allclose(encoded(bundle), expected["user_vectors"], rtol=1e-3, atol=1e-4)


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) < 2_000_000
