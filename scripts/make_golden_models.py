"""Make tests/golden/v1/models: a tiny checkpoint of every kind, its bundle where it has one, and what they answered.

Every later version must read them and give the same answers. A kind that is there already is left alone.
"""

import json
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from millirec.bundle import PackConfig, pack  # noqa: E402
from millirec.data.encode import Batch, encode  # noqa: E402
from millirec.models.base import Inputs, SequenceModel, catalog_scores  # noqa: E402
from millirec.models.checkpoint import Checkpoint  # noqa: E402
from millirec.models.config import ModelConfig, max_length  # noqa: E402
from millirec.train.config import TrainConfig  # noqa: E402
from millirec.train.fit import fit  # noqa: E402
from millirec.train.journal import Silent  # noqa: E402
from millirec.train.machine import Machine  # noqa: E402
from tests.logs import cycle  # noqa: E402

HISTORIES = ((3,), (5, 6, 7), (12, 1, 2, 3, 9, 4))
SMALL: dict[str, Any] = {"embedding_dim": 8, "hidden_dim": 8, "heads": 2, "blocks": 2, "max_length": 8}


def questions(length: int) -> Batch:
    """Histories with events a minute apart, asked an hour after the last one."""
    items = [np.array(rows, np.int32) for rows in HISTORIES]
    times = [np.arange(len(rows), dtype=np.int64) * 60_000 for rows in HISTORIES]
    return encode(items, times, length, [int(row[-1]) + 3_600_000 for row in times])


def answers(checkpoint: Checkpoint) -> list[list[float]]:
    """Scores of all items for each history."""
    with torch.inference_mode():
        scores = catalog_scores(checkpoint.network(), Inputs.of(questions(max_length(checkpoint.config))))  # type: ignore[arg-type]
    return [[round(score, 6) for score in row[1:]] for row in scores.tolist()]


def encoded(bundle: Any) -> list[list[float]]:
    """User vectors of each history from the graph."""
    batch = questions(bundle.max_length)
    session = bundle.encoder.session()
    vectors = session.run(["user_vectors"], {name: getattr(batch, name) for name in bundle.inputs})[0]
    return [[round(number, 6) for number in row] for row in vectors.tolist()]


def make(kind: Any, folder: Path) -> None:
    """One kind's folder."""
    names = {field.name for field in msgspec.structs.fields(kind)}
    config = kind(**{name: value for name, value in SMALL.items() if name in names})
    training = TrainConfig(epochs=3, learning_rate=0.02, batch_size=16)
    checkpoint = fit(cycle(), config, training, Machine(threads=1), Silent())
    checkpoint.save(folder / "checkpoint")
    expected: dict[str, Any] = {"histories": HISTORIES, "scores": answers(checkpoint)}
    if isinstance(checkpoint.network(), SequenceModel):
        bundle = pack(checkpoint, folder / "bundle", PackConfig(name="golden"))
        expected |= {"version": bundle.version, "user_vectors": encoded(bundle)}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Every kind of the union that is not there yet."""
    for kind in get_args(ModelConfig):
        name = msgspec.to_builtins(kind())["kind"]
        folder = ROOT / "tests" / "golden" / "v1" / "models" / name
        if not folder.exists():
            make(kind, folder)
            print(f"{name}: made")


if __name__ == "__main__":
    main()
