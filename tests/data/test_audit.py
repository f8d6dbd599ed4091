"""`audit` under attack: every kind of leak planted into a clean split of real data is found; clean splits are clean."""

from pathlib import Path

import numpy as np
import pytest

from millirec.data.audit import audit
from millirec.data.dataset import TEST, TRAIN, VALIDATION, Dataset, Interactions
from millirec.data.errors import DataError
from millirec.data.simulate import simulate
from millirec.data.sources import MovieLensConfig, read
from millirec.data.split import GlobalTime, LeaveLastOut, SplitConfig, split
from millirec.data.world import SimulatedConfig


@pytest.fixture(scope="module")
def movies(shared_data: Path) -> Dataset:
    return read(MovieLensConfig(path=str(shared_data / "ml-100k")))


SPLITS = pytest.mark.parametrize("config", [LeaveLastOut(), GlobalTime()], ids=lambda config: type(config).__name__)


def kinds(dataset: Dataset, *, repeats: bool = False) -> set[str]:
    return {leak.kind for leak in audit(dataset, repeats=repeats)}


def plus(dataset: Dataset, users: np.ndarray, items: np.ndarray, times: np.ndarray, role: int) -> Dataset:
    """The data set with more events behind it."""
    log = dataset.interactions
    more = Interactions(
        np.concatenate([log.users, users]).astype(np.int32),
        np.concatenate([log.items, items]).astype(np.int32),
        np.concatenate([log.times, times]).astype(np.int64),
    )
    roles = np.concatenate([dataset.roles, np.full(len(users), role)]).astype(np.uint8)
    return Dataset(more, dataset.items, dataset.users, roles, dataset.name, dataset.protocol)


@SPLITS
def test_clean_splits_come_out_clean(movies: Dataset, config: SplitConfig) -> None:
    assert audit(split(movies, config)) == []


@SPLITS
def test_a_test_event_copied_into_training(movies: Dataset, config: SplitConfig) -> None:
    clean = split(movies, config)
    log = clean.interactions
    at = np.flatnonzero(clean.roles == TEST)[[3, 40]]
    dirty = plus(clean, log.users[at], log.items[at], log.times[at], TRAIN)
    found = {leak.kind: leak for leak in audit(dirty)}
    assert found["same-event"].count == 2
    names = dirty.users.vocabulary, dirty.items.vocabulary
    events = [(names[0].id(int(log.users[i])), names[1].id(int(log.items[i])), log.times[i]) for i in at]
    assert found["same-event"].example in [f"user {u!r}, item {i!r}, time {t}" for u, i, t in events]


@SPLITS
def test_training_on_what_follows_the_test_target(movies: Dataset, config: SplitConfig) -> None:
    clean = split(movies, config)
    log = clean.interactions
    at = np.flatnonzero(clean.roles == TEST)[:1]
    fresh = np.setdiff1d(np.arange(1, 1600), log.items[log.users == log.users[at[0]]])[:1]
    found = kinds(plus(clean, log.users[at], fresh, log.times[at] + 1, TRAIN))
    assert "train-after-test" in found
    assert ("train-after-cut" in found) == isinstance(config, GlobalTime)


def test_a_training_event_after_the_cut_of_a_user_without_a_test(movies: Dataset) -> None:
    clean = split(movies, GlobalTime())
    log = clean.interactions
    tested = np.unique(log.users[clean.roles != TRAIN])
    user = np.setdiff1d(log.users, tested)[:1]
    item = np.setdiff1d(np.arange(1, 1600), log.items[log.users == user[0]])[:1]
    cut = log.times[clean.roles == TEST].min()
    assert kinds(plus(clean, user, item, np.array([cut]), TRAIN)) == {"train-after-cut", "train-after-validation-cut"}


@SPLITS
def test_validation_after_test(movies: Dataset, config: SplitConfig) -> None:
    clean = split(movies, config)
    log = clean.interactions
    at = np.flatnonzero(clean.roles == TEST)[:1]
    item = np.setdiff1d(np.arange(1, 1600), log.items[log.users == log.users[at[0]]])[:1]
    found = kinds(plus(clean, log.users[at], item, log.times[at] + 1, VALIDATION))
    assert "validation-after-test" in found
    assert ("validation-after-cut" in found) == isinstance(config, GlobalTime)


def test_swapped_roles(movies: Dataset) -> None:
    clean = split(movies, LeaveLastOut())
    roles = clean.roles.copy()
    roles[clean.roles == TEST], roles[clean.roles == VALIDATION] = VALIDATION, TEST
    found = {leak.kind: leak.count for leak in audit(clean.with_roles(roles, clean.protocol))}
    assert found == {"validation-after-test": len(movies.users)}


def test_training_between_validation_and_test(movies: Dataset) -> None:
    clean = split(movies, LeaveLastOut())
    seq = clean.sequences
    roles = clean.roles.copy()
    last = seq.offsets[2] - 1  # of the first user: train, ..., train, validation, test
    roles[seq.order[last - 2]], roles[seq.order[last - 1]] = VALIDATION, TRAIN
    assert kinds(clean.with_roles(roles, clean.protocol)) == {"train-after-validation"}


def test_a_target_that_the_user_already_has(movies: Dataset) -> None:
    clean = split(movies, LeaveLastOut())
    log = clean.interactions
    target = int(np.flatnonzero(clean.roles == TEST)[0])
    old = int(np.flatnonzero((log.users == log.users[target]) & (clean.roles == TRAIN))[0])
    items = log.items.copy()
    items[target] = items[old]
    dirty = Dataset(
        Interactions(log.users, items, log.times), clean.items, clean.users, clean.roles, "log", clean.protocol
    )
    assert kinds(dirty) == {"target-in-history"}
    assert kinds(dirty, repeats=True) == set()


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_user_copied_under_another_name(movies: Dataset, shuffled: bool) -> None:
    log = movies.interactions
    original, victim = 1, 2
    own = np.flatnonzero(log.users == original)
    kept = log.take(log.users != victim)
    items = log.items[own]
    if shuffled:
        items = np.random.default_rng(0).permutation(items)
    copied = Interactions(
        np.concatenate([kept.users, np.full(len(own), victim)]).astype(np.int32),
        np.concatenate([kept.items, items]),
        np.concatenate([kept.times, log.times[own] + 1000]),
    )
    leaks = audit(split(Dataset.of(copied, movies.items, movies.users), LeaveLastOut()))
    assert [(leak.kind, leak.count, leak.warning) for leak in leaks] == [("copied-user", 2, True)]


def test_simulated_sessions_are_clean_when_repeats_are_allowed() -> None:
    dataset = simulate(SimulatedConfig(users=50, items=60, events=2000, seed=3)).dataset
    done = split(dataset, GlobalTime())
    assert audit(done, repeats=True) == []
    assert "target-in-history" in kinds(done)


def test_a_log_without_a_test_part_is_refused(movies: Dataset) -> None:
    with pytest.raises(DataError, match="no test part"):
        audit(movies)
