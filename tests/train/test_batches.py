import numpy as np
import pytest

from millirec.data.dataset import TRAIN, Dataset
from millirec.train.batches import TrainingSequences
from millirec.train.machine import generator
from tests.logs import cycle, dataset_of


def long_log(seed: int = 0) -> Dataset:
    """Histories of 1 to 40 events; nothing is held out."""
    rng = np.random.default_rng(seed)
    return dataset_of([rng.integers(1, 50, n).tolist() for n in rng.integers(1, 41, 60)], 50)


def planned(sequences: TrainingSequences, epoch: int = 0) -> np.ndarray:
    return np.concatenate(sequences.plan(7, generator(0, 1, epoch)))


def targets_of(spans: np.ndarray) -> np.ndarray:
    """Places of the events that are targets, one entry each time."""
    return np.concatenate([np.arange(start + 1, stop) for start, stop in spans])


def test_newest_windows_hold_everybody_once() -> None:
    dataset = cycle()
    spans = planned(TrainingSequences(dataset, 8))
    seq = dataset.sequences
    users = seq.users[seq.roles == TRAIN]
    assert sorted(users[spans[:, 0]]) == list(range(1, 41))
    assert (users[spans[:, 0]] == users[spans[:, 1] - 1]).all()


def test_a_batch_asks_for_the_next_item_at_its_time() -> None:
    sequences = TrainingSequences(cycle(), 8)
    plan = sequences.plan(7, generator(0, 1, 0))
    batch = sequences.batch(plan[0])
    assert (batch.targets[:, :-1] == batch.inputs.items[:, 1:]).all()
    assert (batch.inputs.now == sequences.times[plan[0][:, 1] - 1]).all()
    assert (batch.inputs.now > batch.inputs.times.max(1)).all()


@pytest.mark.parametrize("windows", ["newest", "all"])
def test_a_batch_says_where_its_targets_stand(windows: str) -> None:
    dataset = cycle()  # held-out events stand between the training events of users
    sequences = TrainingSequences(dataset, 3, windows)
    seen = []
    for spans in sequences.plan(7, generator(0, 1, 0)):
        batch = sequences.batch(spans)
        there = batch.targets > 0
        assert (dataset.sequences.items[batch.places[there]] == batch.targets[there]).all()
        assert (batch.places[~there] == 0).all()
        seen += batch.places[there].tolist()
    assert len(set(seen)) == len(seen) == 40 * (3 if windows == "newest" else 6)
    assert (dataset.sequences.roles[seen] == TRAIN).all()


def test_batches_hold_like_lengths() -> None:
    sequences = TrainingSequences(long_log(), 40)
    spreads = [np.ptp(np.diff(spans)) for spans in sequences.plan(10, generator(0, 1, 0))]
    assert max(spreads) < 12


@pytest.mark.parametrize("length", [2, 5, 17, 40])
def test_all_windows_make_each_event_a_target_once_whatever_its_age(length: int) -> None:
    dataset = long_log()
    sequences = TrainingSequences(dataset, length, "all")
    first = np.r_[True, np.diff(dataset.sequences.users) > 0]
    for epoch in range(3):
        spans = planned(sequences, epoch)
        assert (np.diff(spans) >= 2).all()
        assert (np.diff(spans) <= length + 1).all()
        assert sorted(targets_of(spans)) == np.flatnonzero(~first).tolist()


def test_the_cuts_are_a_function_of_seed_and_epoch() -> None:
    sequences = TrainingSequences(long_log(), 5, "all")
    first, again, other = planned(sequences), planned(sequences), planned(sequences, 1)
    assert (first == again).all()
    assert {tuple(span) for span in first} != {tuple(span) for span in other}


@pytest.mark.parametrize("windows", ["newest", "all"])
def test_since_asks_for_newer_events_only(windows: str) -> None:
    """Ten events a user, a second apart: those after 6 s are three."""
    dataset = dataset_of([list(range(1, 11)), list(range(1, 11)), [1, 2, 3]], 10)
    sequences = TrainingSequences(dataset, 4, windows, since=6000)
    assert len(sequences) == 2
    batch = sequences.batch(planned(sequences))
    asked = batch.targets[batch.targets > 0]
    assert sorted(asked) == [8, 8, 9, 9, 10, 10]


def test_since_the_newest_event_leaves_nobody() -> None:
    assert len(TrainingSequences(cycle(), 8, since=10**9)) == 0
