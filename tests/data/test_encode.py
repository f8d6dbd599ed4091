"""`encode`: the newest events, padded on the right; unknown items never leave a trace."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from millirec.data.encode import encode

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1, max_size=5)


def arrays(rows: list[list[int]]) -> list[np.ndarray]:
    return [np.array(row, np.int32) for row in rows]


def test_worked_example() -> None:
    items = arrays([[4, 0, 5, 6], [7], []])
    times = [np.array(t, np.int64) for t in ([10, 11, 12, 13], [20], [])]
    batch = encode(items, times, max_length=2)
    assert batch.items.tolist() == [[5, 6], [7, 0], [0, 0]]
    assert batch.times.tolist() == [[12, 13], [20, 0], [0, 0]]
    assert batch.lengths.tolist() == [2, 1, 0]
    assert (batch.items.dtype, batch.lengths.dtype, batch.times.dtype) == (np.int32, np.int32, np.int64)
    assert len(batch) == 3


@given(ROWS, st.integers(1, 15), st.data())
def test_unknown_items_change_nothing_wherever_they_stand(
    rows: list[list[int]], max_length: int, data: st.DataObject
) -> None:
    known = [[item for item in row if item] for row in rows]
    times = [list(range(100, 100 + len(row))) for row in known]
    noisy_rows, noisy_times = [], []
    for row, moments in zip(known, times, strict=True):
        row, moments = list(row), list(moments)
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.integers(0, len(row)))
            row.insert(at, 0)
            moments.insert(at, 99)
        noisy_rows.append(row)
        noisy_times.append(moments)
    plain = encode(arrays(known), [np.array(t, np.int64) for t in times], max_length)
    noisy = encode(arrays(noisy_rows), [np.array(t, np.int64) for t in noisy_times], max_length)
    for name in ("items", "lengths", "times"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(noisy, name))


@given(ROWS, st.integers(1, 15))
def test_each_row_of_a_batch_is_what_it_would_be_alone(rows: list[list[int]], max_length: int) -> None:
    batch = encode(arrays(rows), None, max_length)
    for i, row in enumerate(arrays(rows)):
        alone = encode([row], None, max_length)
        length = int(alone.lengths[0])
        assert batch.lengths[i] == length
        np.testing.assert_array_equal(batch.items[i, :length], alone.items[0, :length])
        assert not batch.items[i, length:].any()
    assert not batch.times.any()


def test_nobody_gives_an_empty_batch() -> None:
    batch = encode([], None, 5)
    assert batch.items.shape == (0, 1)
    assert len(batch) == 0
