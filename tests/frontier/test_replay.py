"""The replay through the engine finds what the network's own evaluation finds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from millirec.bundle import PackConfig, open_bundle, pack
from millirec.data.dataset import TEST, Dataset, Interactions
from millirec.data.split import GlobalTime, LeaveLastOut, split, targets
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore
from millirec.frontier.replay import replay
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig
from millirec.models.hstu import HSTUConfig
from millirec.models.linear_recurrent import LinearRecurrentConfig
from millirec.models.sasrec import SASRecConfig
from millirec.train.evaluate import rank_checkpoint
from millirec.train.fit import fit
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.trainer import TrainConfig
from tests.logs import checkerboard, dataset_of

MODEL = SASRecConfig(embedding_dim=16, blocks=1, heads=1, max_length=6)
TRAINING = TrainConfig(epochs=5, learning_rate=0.02, batch_size=16, repeats=False)
LONGER = TrainConfig(epochs=40, learning_rate=0.02, batch_size=16, repeats=True)


def both(
    dataset: Dataset, folder: Path, *, repeats: bool, model: ModelConfig = MODEL, training: TrainConfig = TRAINING
) -> tuple[np.ndarray, np.ndarray, Checkpoint]:
    checkpoint = fit(dataset, model, training, Machine(threads=1), Silent())
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


@pytest.mark.parametrize("model", [HSTUConfig(embedding_dim=16, max_length=6), LinearRecurrentConfig(max_length=6)])
def test_the_time_of_the_question_is_the_same_offline_and_online(model: ModelConfig, tmp_path: Path) -> None:
    """What comes next depends on the wait before it: only who knows the time of the question can tell."""
    rng = np.random.default_rng(0)
    rows, times = [], []
    for _ in range(80):
        waits = rng.integers(0, 2, 9)
        rows.append([1, *(2 + 5 * wait + int(rng.integers(5)) for wait in waits)])
        times.append(np.concatenate([[0], np.cumsum(np.where(waits, 10**8, 10**4))]))
    plain = dataset_of(rows, 11)
    log = plain.interactions
    timed = Dataset.of(Interactions(log.users, log.items, np.concatenate(times)), plain.items, plain.users)
    offline, online, _ = both(split(timed, LeaveLastOut()), tmp_path, repeats=True, model=model, training=LONGER)
    assert (offline == online).mean() > 0.98
    assert (offline <= 5).mean() > 0.9


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


def test_a_model_that_scores_everything_equal_comes_last_on_every_path(tmp_path: Path) -> None:
    """Network and engine alike: the order among equals, which a list must have, never helps."""
    rng = np.random.default_rng(0)
    for n_items in (40, 150):  # lists that end with the catalogue, and lists of 100 that do not
        sequences = [rng.permutation(n_items)[:5] + 1 for _ in range(30)]
        dataset = split(dataset_of([s.tolist() for s in sequences], n_items), LeaveLastOut())
        checkpoint = fit(dataset, MODEL, TRAINING, Machine(threads=1), Silent())
        flat = replace(checkpoint, parameters={name: 0 * value for name, value in checkpoint.parameters.items()})
        offline = rank_checkpoint(flat, dataset, targets(dataset, TEST), repeats=False).ranks
        assert (offline == n_items - 4).all()  # behind all but the four seen items
        pack(flat, tmp_path / str(n_items), PackConfig())
        with StateStore.temporary() as store:
            online = replay(Engine(open_bundle(tmp_path / str(n_items)), store), dataset, TEST).ranks
        assert (online >= n_items - 4).all()
