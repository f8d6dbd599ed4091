"""The replay through the engine finds what the network's own evaluation finds."""

from pathlib import Path

import numpy as np
import pytest

from millirec.bundle import PackConfig, open_bundle, pack
from millirec.data.dataset import TEST, Dataset
from millirec.data.split import GlobalTime, LeaveLastOut, split, targets
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore
from millirec.frontier.replay import replay
from millirec.models.checkpoint import Checkpoint
from millirec.models.sasrec import SASRecConfig
from millirec.train.evaluate import rank_checkpoint
from millirec.train.fit import fit
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.trainer import TrainConfig
from tests.logs import checkerboard, dataset_of

MODEL = SASRecConfig(embedding_dim=16, blocks=1, heads=1, max_length=6)
TRAINING = TrainConfig(epochs=5, learning_rate=0.02, batch_size=16, repeats=False)


def both(dataset: Dataset, folder: Path, *, repeats: bool) -> tuple[np.ndarray, np.ndarray, Checkpoint]:
    checkpoint = fit(dataset, MODEL, TRAINING, Machine(threads=1), Silent())
    pack(checkpoint, folder / "bundle", PackConfig())
    offline = rank_checkpoint(checkpoint, dataset, targets(dataset, TEST, repeats=repeats), repeats=repeats)
    with StateStore.temporary() as store:
        online = replay(Engine(open_bundle(folder / "bundle"), store), dataset, TEST, repeats=repeats)
    return offline.ranks, online.ranks, checkpoint


def test_leave_last_out_agrees_with_the_network(tmp_path: Path) -> None:
    offline, online, _ = both(checkerboard(), tmp_path, repeats=False)
    assert (offline == online).mean() > 0.98  # float32 rounding may swap neighbours


@pytest.mark.parametrize("repeats", [False, True])
def test_test_then_observe_under_global_time(tmp_path: Path, repeats: bool) -> None:
    """Several targets a user: each is asked with everything before it, earlier targets included."""
    rng = np.random.default_rng(0)
    dataset = split(dataset_of([rng.integers(1, 15, 12).tolist() for _ in range(30)], 14), GlobalTime(test=0.2))
    offline, online, _ = both(dataset, tmp_path, repeats=repeats)
    assert len(offline) > 40
    assert (offline == online).mean() > 0.98


def test_a_store_that_knows_nothing_gives_other_answers(tmp_path: Path) -> None:
    """The test above can fail: without the events, the ranks differ."""
    dataset = split(dataset_of([[1, 2, 3, 4, 5]] * 8 + [[5, 4, 3, 2, 1]] * 8, 8), LeaveLastOut())
    checkpoint = fit(dataset, MODEL, TRAINING, Machine(threads=1), Silent())
    pack(checkpoint, tmp_path / "bundle", PackConfig())
    with StateStore.temporary() as store:
        engine = Engine(open_bundle(tmp_path / "bundle"), store)
        seen = replay(engine, dataset, TEST)
        assert len(seen.top) == 16
        assert not np.isin(seen.top[0][seen.top[0] > 0], dataset.sequences.items[:4]).any(), "seen items came back"
