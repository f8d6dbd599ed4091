"""Groups of like length, and vectors in the order of the questions."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from millirec.data.encode import Batch
from millirec.engine.batcher import encode_all, groups


def test_groups_by_hand() -> None:
    # 10 + 10 + 12: 36 cells, 4 padded (11 %). With 40 it would be 160 cells and 88 padded.
    assert groups([10, 40, 12, 10, 39]) == [[0, 3, 2], [4, 1]]
    assert groups([5] * 9, max_batch=8) == [[0, 1, 2, 3, 4, 5, 6, 7], [8]]
    assert [len(group) for group in groups([200] * 12)] == [5, 5, 2]  # at most 1,024 cells
    assert [len(group) for group in groups([2_000] * 2)] == [1, 1]  # but one always goes
    assert groups([]) == []


@given(st.lists(st.integers(1, 200), max_size=60), st.integers(1, 8), st.sampled_from([0.0, 0.25, 0.5]))
def test_groups_hold_every_place_once_within_the_limits(lengths: list[int], size: int, padding: float) -> None:
    found = groups(lengths, size, padding)
    assert sorted(place for group in found for place in group) == list(range(len(lengths)))
    for group in found:
        assert 1 <= len(group) <= size
        own = [lengths[place] for place in group]
        assert 1 - sum(own) / (len(own) * max(own)) <= padding + 1e-9


def _last_item(batch: Batch) -> np.ndarray:
    """A stand-in for a graph whose right answer is plain: the last item, and the sum of all times."""
    last = batch.items[np.arange(len(batch)), batch.lengths - 1]
    return np.stack([last, batch.times.sum(axis=1)], axis=1).astype(np.float32)


@given(st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=20), st.booleans())
def test_vectors_come_back_in_order_and_unknown_items_do_not_count(histories: list[list[int]], timed: bool) -> None:
    items = [np.array(history, np.int32) for history in histories]
    clock = [(np.arange(len(history), dtype=np.int64), 100) for history in histories] if timed else None
    for history, vector in zip(histories, encode_all(_last_item, items, 5, clock), strict=True):
        known = [(item, at) for at, item in enumerate(history) if item][-5:]
        if not known:
            assert vector is None
        else:
            total = sum(at for _, at in known) if timed else 0
            assert vector is not None
            assert vector.tolist() == [known[-1][0], total]


def test_a_vector_that_is_not_finite_counts_as_none() -> None:
    def run(batch: Batch) -> np.ndarray:
        return np.array([[np.nan, 1], [1, 1]], np.float32)[: len(batch)]

    one = np.array([1], np.int32)
    first, second = encode_all(run, [one, one], 5)
    assert first is None
    assert second is not None
