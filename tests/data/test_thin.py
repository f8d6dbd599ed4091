"""Thinning: planted bots, repeats and copies leave the training part, and nothing else changes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.data.audit import audit
from millirec.data.bots import Bots
from millirec.data.catalog import Catalog, Vocabulary
from millirec.data.dataset import CONTEXT, TEST, TRAIN, VALIDATION, Dataset, Interactions
from millirec.data.errors import ConfigError, DataError
from millirec.data.near import Duplicates
from millirec.data.split import GlobalTime, LeaveLastOut, SplitConfig, split, targets
from millirec.data.thin import Repeats, ThinConfig, thin
from tests.logs import dataset_of

ALL = ThinConfig(bots=Bots(), repeats=Repeats(), duplicates=Duplicates())
BOT, COPY, STUTTER = 31, 32, 33


def planted(config: SplitConfig | None = None) -> Dataset:
    """30 people, a bot that clicks every ten seconds, a copy of user 1, and one whose every item comes twice."""
    rng = np.random.default_rng(0)
    histories = [rng.permutation(np.arange(1, 301))[:40] for _ in range(30)]
    times = [np.cumsum(rng.integers(20, 9000, 40)) * 1000 for _ in range(30)]
    histories += [rng.integers(1, 301, 300), histories[0].copy(), np.repeat(rng.permutation(np.arange(1, 301))[:20], 2)]
    times += [np.arange(300) * 10_000, times[0] + 77, np.cumsum(rng.integers(20, 9000, 40)) * 1000]
    log = Interactions(
        np.repeat(np.arange(1, 34), [len(h) for h in histories]).astype(np.int32),
        np.concatenate(histories).astype(np.int32),
        np.concatenate(times).astype(np.int64),
    )
    order = rng.permutation(len(log))  # the file's order says nothing
    items = Catalog(Vocabulary([f"i{row}" for row in range(1, 301)]))
    users = Catalog(Vocabulary([f"u{row}" for row in range(1, 34)]))
    return split(Dataset.of(log.take(order), items, users), config or LeaveLastOut())


def train_events(dataset: Dataset) -> np.ndarray:
    """Training events of each user row."""
    return np.bincount(dataset.interactions.users[dataset.roles == TRAIN], minlength=len(dataset.users) + 1)


def test_what_was_planted_is_found_and_told() -> None:
    dataset = planted()
    thinned, report = thin(dataset, ALL)
    left = train_events(thinned)
    assert left[1:31].tolist() == [38] * 30
    assert left[BOT] == 0
    assert left[COPY] == 0
    assert left[STUTTER] == 19
    assert (report.events, report.events_kept) == (30 * 38 + 298 + 38 + 38, 30 * 38 + 19)
    assert (report.users, report.users_kept) == (33, 31)
    told = {out.reason: (out.users, out.events, out.example) for out in report.left_out}
    assert told == {
        "bots: rapid": (0, 0, ""),
        "bots: regular": (1, 298, "user 'u31'"),
        "bots: long": (0, 0, ""),
        "repeats": (1, 19, "user 'u33'"),
        "duplicates": (1, 38, "user 'u32', 100% of user 'u1'"),
    }


@pytest.mark.parametrize("config", [LeaveLastOut(), GlobalTime()], ids=["leave-last-out", "global-time"])
def test_only_training_events_change(config: SplitConfig) -> None:
    dataset = planted(config)
    thinned, _ = thin(dataset, ALL)
    changed = thinned.roles != dataset.roles
    assert changed.any()
    assert (dataset.roles[changed] == TRAIN).all()
    assert (thinned.roles[changed] == CONTEXT).all()
    assert thinned.fingerprint == dataset.fingerprint
    assert thinned.protocol == dataset.protocol
    for role in (VALIDATION, TEST):
        for repeats in (True, False):
            own, other = targets(thinned, role, repeats=repeats), targets(dataset, role, repeats=repeats)
            assert np.array_equal(own.places, other.places)
            assert np.array_equal(own.starts, other.starts)
    assert np.array_equal(thinned.sequences.items, dataset.sequences.items)
    assert {leak.kind for leak in audit(thinned)} <= {leak.kind for leak in audit(dataset)}


@pytest.mark.parametrize("config", [LeaveLastOut(), GlobalTime()], ids=["leave-last-out", "global-time"])
def test_what_is_held_out_decides_nothing(config: SplitConfig) -> None:
    """Other items and other times in validation and test: the same training part."""
    dataset = planted(config)
    held = dataset.roles != TRAIN
    log = dataset.interactions
    rng = np.random.default_rng(1)
    items = np.where(held, rng.integers(1, 301, len(log)), log.items).astype(np.int32)
    # A later event stays later, so that histories keep their order.
    times = np.where(held, log.times + 10**9 * (dataset.roles.astype(np.int64) + 1), log.times)
    other = replace(dataset, interactions=Interactions(log.users, items, times))
    assert np.array_equal(thin(other, ALL)[0].roles, thin(dataset, ALL)[0].roles)


def test_nothing_is_dropped_when_off() -> None:
    dataset = planted()
    thinned, report = thin(dataset, ThinConfig())
    assert np.array_equal(thinned.roles, dataset.roles)
    assert report.left_out == []
    assert report.events == report.events_kept


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 40)), min_size=1, max_size=30), st.integers(0, 15))
def test_repeats_against_a_plain_loop(events: list[tuple[int, int]], seconds: int) -> None:
    events = sorted(events, key=lambda event: event[1])
    log = Interactions(
        np.ones(len(events), np.int32),
        np.array([item for item, _ in events], np.int32),
        np.array([time * 1000 for _, time in events], np.int64),
    )
    catalog, users = (Catalog(Vocabulary([f"{what}{i}" for i in range(3)])) for what in "iu")
    thinned, _ = thin(Dataset.of(log, catalog, users), ThinConfig(repeats=Repeats(within_seconds=seconds)))
    kept, before = [], (0, 0)
    for item, time in events:
        kept.append(not (item == before[0] and time - before[1] <= seconds))
        before = item, time
    assert (thinned.roles == TRAIN).tolist() == kept


def test_a_log_without_times() -> None:
    dataset = replace(planted(), timed=False)
    for config, message in (
        (ThinConfig(bots=Bots()), r"\$\.thin\.bots: log tells no times"),
        (ThinConfig(repeats=Repeats(within_seconds=9.0)), r"\$\.thin\.repeats\.within_seconds: log tells no times"),
    ):
        with pytest.raises(ConfigError, match=message):
            thin(dataset, config)
    long = Bots(events_per_minute=0, regular=0, length_quantile=0.9)
    untimed = ThinConfig(bots=long, repeats=Repeats(), duplicates=Duplicates())
    assert {out.reason: out.users for out in thin(dataset, untimed)[1].left_out} == {
        "bots: long": 1,
        "repeats": 1,
        "duplicates": 1,
    }


def test_a_training_part_is_left_or_it_is_refused() -> None:
    with pytest.raises(DataError, match=r"\$\.thin leaves nothing to train on"):
        thin(dataset_of([list(range(1, 25))]), ThinConfig(bots=Bots()))  # an event each second
    with pytest.raises(ConfigError, match=r"\$\.thin\.repeats\.within_seconds = -1"):
        Repeats(within_seconds=-1)
