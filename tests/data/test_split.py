"""Splits and targets: worked examples, and what must hold for any log."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millirec.data.audit import audit
from millirec.data.catalog import Catalog, Vocabulary
from millirec.data.dataset import CONTEXT, TEST, TRAIN, VALIDATION, Dataset, Interactions
from millirec.data.errors import ConfigError, DataError
from millirec.data.split import Given, GlobalTime, LeaveLastOut, split, targets

Log = list[tuple[int, int, int]]
LOGS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 8), st.integers(0, 40)), min_size=1, max_size=80)


def dataset(events: Log) -> Dataset:
    users, items, times = (np.array(column) for column in zip(*events, strict=True))
    log = Interactions(users.astype(np.int32), items.astype(np.int32), times.astype(np.int64))
    names = [Catalog(Vocabulary([str(n) for n in range(9)])), Catalog(Vocabulary([str(n) for n in range(9)]))]
    return Dataset.of(log, *names)


def test_leave_last_out_breaks_ties_by_file_order() -> None:
    done = split(dataset([(1, 1, 5), (1, 2, 9), (1, 3, 9), (1, 4, 1), (2, 1, 3), (2, 2, 3)]), LeaveLastOut())
    assert done.roles.tolist() == [TRAIN, VALIDATION, TEST, TRAIN, TRAIN, TRAIN]
    assert "file order on ties" in done.protocol


def test_a_log_without_times_is_not_split_by_time() -> None:
    untimed = replace(dataset([(1, item, item) for item in range(1, 9)]), timed=False)
    with pytest.raises(DataError, match="tells no times to split by"):
        split(untimed, GlobalTime())
    assert (split(untimed, LeaveLastOut()).roles == TEST).sum() == 1


def test_only_some_users_validate_and_the_test_part_stays() -> None:
    whole = dataset([(user, item, time) for user in range(1, 6) for time, item in enumerate((1, 2, 3, 4))])
    all_users, some = split(whole, LeaveLastOut()), split(whole, LeaveLastOut(validation_users=2))
    assert np.flatnonzero(some.roles == TEST).tolist() == np.flatnonzero(all_users.roles == TEST).tolist()
    validating = np.flatnonzero(some.roles == VALIDATION)
    assert len(validating) == 2
    assert set(validating) < set(np.flatnonzero(all_users.roles == VALIDATION))
    assert (some.roles == TRAIN).sum() == 5 * 4 - 5 - 2
    assert some.protocol != all_users.protocol
    assert split(whole, LeaveLastOut(validation_users=2)).roles.tolist() == some.roles.tolist()
    assert split(whole, LeaveLastOut(validation_users=99)).roles.tolist() == all_users.roles.tolist()


def test_global_time_never_cuts_within_a_moment() -> None:
    done = split(dataset([(1, 1, t) for t in (1, 2, 3, 4, 5, 6, 6, 8, 9, 9)]), GlobalTime(validation=0.2, test=0.1))
    # The cuts fall on the 10th of 10 (time 9) and the 8th (time 8).
    assert done.roles.tolist() == [TRAIN] * 7 + [VALIDATION] + [TEST] * 2


@given(LOGS, st.integers(3, 6))
def test_leave_last_out_takes_the_last_two_of_each_long_user(events: Log, least: int) -> None:
    expected = np.zeros(len(events), np.uint8)
    for user in {u for u, _, _ in events}:
        own = sorted((i for i, e in enumerate(events) if e[0] == user), key=lambda i: events[i][2])
        if len(own) >= least:
            expected[own[-1]], expected[own[-2]] = TEST, VALIDATION
    whole = dataset(events)
    if not expected.any() or (expected > 0).all():
        with pytest.raises(DataError, match="empty"):
            split(whole, LeaveLastOut(min_events=least))
        return
    np.testing.assert_array_equal(split(whole, LeaveLastOut(min_events=least)).roles, expected)


@given(LOGS)
def test_global_time_orders_the_parts_and_leaks_nothing(events: Log) -> None:
    try:
        done = split(dataset(events), GlobalTime())
    except DataError:
        return  # too few moments for three parts
    times = done.interactions.times
    assert times[done.roles == TRAIN].max() < times[done.roles == VALIDATION].min()
    assert times[done.roles == VALIDATION].max() < times[done.roles == TEST].min()
    kinds = {leak.kind for leak in audit(done, repeats=True) if not leak.warning}
    assert not kinds


@given(LOGS)
def test_targets_have_a_history_and_fresh_items(events: Log) -> None:
    try:
        done = split(dataset(events), GlobalTime(validation=0.2, test=0.3))
    except DataError:
        return
    seq = done.sequences
    asked = targets(done, TEST)
    for place, start in zip(asked.places, asked.starts, strict=True):
        assert start < place
        assert (seq.users[start : place + 1] == seq.users[place]).all()
        assert seq.items[place] not in seq.items[start:place]
    assert len(asked) + asked.n_repeats + asked.n_cold == (done.roles == TEST).sum()
    again = targets(done, TEST, repeats=True)
    assert len(again) == len(asked) + asked.n_repeats


def test_a_given_split_is_kept_and_not_made_again_unasked() -> None:
    whole = dataset([(1, 1, 1), (1, 2, 2), (1, 3, 3), (2, 1, 1), (2, 3, 2)])
    with pytest.raises(DataError, match="no test part is given"):
        split(whole, Given())
    owned = whole.with_roles(np.array([TRAIN, TRAIN, VALIDATION, CONTEXT, TEST], np.uint8), "given")
    assert split(owned, Given()) is owned
    with pytest.raises(DataError, match="split already"):
        split(owned, LeaveLastOut())
    assert split(owned, LeaveLastOut(), again=True).roles.tolist() == [TRAIN, VALIDATION, TEST, TRAIN, TRAIN]
    assert targets(owned, TEST).places.tolist() == [4]


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_events"):
        LeaveLastOut(min_events=2)
    for validation, test in ((0, 0.1), (0.1, 0), (0.5, 0.5), (-0.1, 0.2), (float("nan"), 0.1)):
        with pytest.raises(ConfigError, match="shares"):
            GlobalTime(validation=validation, test=test)
