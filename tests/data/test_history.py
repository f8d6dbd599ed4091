"""`History.append`: whatever the order of arrival, the result is the stable sort by time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millirec.data.history import History, HistoryLimits

EVENTS = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 6)), max_size=30)


def filled(events: list[tuple[int, int]], limits: HistoryLimits) -> History:
    history = History()
    for item, time in events:
        history.append(item, time, limits)
    return history


@given(EVENTS, st.integers(1, 40))
def test_append_equals_the_stable_sort_of_all_arrivals(events: list[tuple[int, int]], window: int) -> None:
    history = filled(events, HistoryLimits(window=window))
    expected = sorted(events, key=lambda event: event[1])[-window:]
    assert list(zip(history.items.tolist(), history.times.tolist(), strict=True)) == expected
    assert len(history) == len(expected)


@given(EVENTS)
def test_seen_keeps_every_item_once_in_order_of_arrival(events: list[tuple[int, int]]) -> None:
    history = filled(events, HistoryLimits(window=2))
    assert history.seen.tolist() == list(dict.fromkeys(item for item, _ in events))


def test_seen_is_bounded_and_forgets_the_oldest() -> None:
    history = filled([(item, item) for item in range(1, 8)], HistoryLimits(window=2, seen=3))
    assert history.seen.tolist() == [5, 6, 7]
    assert history.items.tolist() == [6, 7]


@given(EVENTS)
def test_bytes_bring_the_same_history_back_and_it_can_grow(events: list[tuple[int, int]]) -> None:
    limits = HistoryLimits(window=10)
    history = filled(events, limits)
    again = History.from_bytes(history.to_bytes())
    for one in (history, again):
        one.append(3, 3, limits)
    for name in ("items", "times", "seen"):
        np.testing.assert_array_equal(getattr(again, name), getattr(history, name))
        assert getattr(again, name).dtype == getattr(history, name).dtype


def test_damaged_bytes_are_refused() -> None:
    raw = filled([(1, 1), (2, 2)], HistoryLimits()).to_bytes()
    for damaged in (b"", raw[:3], raw[:-1], raw + b"\0", b"\x02" + raw[1:]):
        with pytest.raises(ValueError, match="not a history"):
            History.from_bytes(damaged)
