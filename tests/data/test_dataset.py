"""`Dataset`: sequences, popularity and the fingerprint."""

import numpy as np
import pytest

from millirec.data.catalog import Catalog, Vocabulary
from millirec.data.dataset import CONTEXT, TEST, TRAIN, VALIDATION, Dataset, Interactions


def dataset(events: list[tuple[int, int, int]], n_users: int = 3, n_items: int = 4) -> Dataset:
    users, items, times = (np.array(column) for column in zip(*events, strict=True))
    log = Interactions(users.astype(np.int32), items.astype(np.int32), times.astype(np.int64))
    names = (
        Catalog(Vocabulary([f"i{n}" for n in range(n_items)])),
        Catalog(Vocabulary([f"u{n}" for n in range(n_users)])),
    )
    return Dataset.of(log, *names)


LOG = [(2, 1, 50), (1, 2, 30), (2, 3, 50), (1, 4, 10), (2, 2, 40), (1, 1, 30)]


def test_sequences_are_by_user_in_time_with_ties_in_file_order() -> None:
    seq = dataset(LOG).sequences
    assert seq.offsets.tolist() == [0, 0, 3, 6, 6]
    assert seq.items.tolist() == [4, 2, 1, 2, 1, 3]
    assert seq.times.tolist() == [10, 30, 30, 40, 50, 50]
    assert seq.order.tolist() == [3, 1, 5, 4, 0, 2]
    assert seq.users.tolist() == [1, 1, 1, 2, 2, 2]


def test_popularity_counts_training_events_only() -> None:
    whole = dataset(LOG)
    assert whole.popularity.tolist() == [0, 2, 2, 1, 1]
    roles = np.array([TRAIN, VALIDATION, TEST, CONTEXT, TRAIN, TRAIN], np.uint8)
    assert whole.with_roles(roles, "mine").popularity.tolist() == [0, 2, 1, 0, 0]


def test_fingerprint_changes_with_any_event_id_or_order() -> None:
    whole = dataset(LOG)
    others = [dataset(LOG[::-1]), dataset(LOG[:-1]), dataset([(2, 1, 51), *LOG[1:]]), dataset(LOG, n_items=5)]
    assert len({one.fingerprint for one in (whole, *others)}) == 5
    assert dataset(LOG).fingerprint == whole.fingerprint


def test_take_by_mask_and_by_place_keeps_values() -> None:
    log = dataset(LOG).interactions
    valued = Interactions(log.users, log.items, log.times, np.arange(6, dtype=np.float32))
    taken = valued.take(np.array([5, 0]))
    assert taken.items.tolist() == [1, 1]
    assert taken.values is not None
    assert taken.values.tolist() == [5, 0]
    assert valued.take(valued.users == 1).times.tolist() == [30, 10, 30]
    assert log.take(log.users == 1).values is None
    assert len(taken) == 2


@pytest.mark.parametrize("n", [0, 1])
def test_empty_and_single_logs_have_sequences(n: int) -> None:
    log = Interactions(np.ones(n, np.int32), np.ones(n, np.int32), np.zeros(n, np.int64))
    one = Dataset.of(log, Catalog(Vocabulary(["i"])), Catalog(Vocabulary(["u"])))
    assert one.sequences.offsets.tolist() == [0, 0, n]
    assert one.popularity.tolist() == [0, n]
