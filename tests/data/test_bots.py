"""Signs of programs in histories, by hand."""

import numpy as np
import pytest

from millirec.data.bots import Bots, bots
from millirec.data.errors import ConfigError

OFF = {"events_per_minute": 0, "regular": 0.0, "length_factor": 0.0}


def signs(histories: list[list[float]], **on: float) -> dict[str, list[int]]:
    """Which histories (times in seconds) show each sign that is on."""
    times = np.array([round(t * 1000) for history in histories for t in history], np.int64)
    lengths = np.array([len(h) for h in histories], np.int64)
    return {sign: np.flatnonzero(users).tolist() for sign, users in bots(times, lengths, Bots(**(OFF | on))).items()}


def test_so_many_events_within_less_than_a_minute() -> None:
    slow = [0, 30, 60, 90]  # three within exactly a minute
    fast = [0, 500, 530, 559.999, 900]
    assert signs([slow, fast, [], [1]], events_per_minute=3) == {"rapid": [1]}
    assert signs([slow, fast], events_per_minute=2) == {"rapid": [0, 1]}
    assert signs([slow, fast], events_per_minute=6) == {"rapid": []}
    # Events of two users in a row are not one user's.
    assert signs([[0, 10], [15, 20]], events_per_minute=3) == {"rapid": []}


def test_gaps_that_are_all_alike() -> None:
    clock = [10.0 * i for i in range(21)]
    nearly = [10.0 * i + 0.2 * (i % 2) for i in range(21)]  # gaps of 10.2 and 9.8
    human = [float(i**2) for i in range(21)]
    at_once = [5.0] * 21  # a page of events in one moment is no clock
    few = clock[:5]
    assert signs([clock, nearly, human, at_once, few, []], regular=0.9) == {"regular": [0, 1]}
    assert signs([clock, nearly], regular=0.9, jitter=0.01) == {"regular": [0]}
    paused = [*clock[:19], 1000.0, 2000.0]  # 18 of 20 gaps
    assert signs([paused], regular=0.9) == {"regular": [0]}
    assert signs([paused], regular=0.91) == {"regular": []}


def test_far_longer_than_others() -> None:
    histories = [[float(i) for i in range(10)]] * 99 + [[float(i) for i in range(51)]]
    assert signs(histories, length_factor=5, length_quantile=0.5) == {"long": [99]}
    assert signs(histories, length_factor=5.2, length_quantile=0.5) == {"long": []}
    assert signs([*histories, *[[]] * 500], length_factor=5, length_quantile=0.5) == {"long": [99]}
    assert signs([[], []], length_factor=5) == {"long": []}


def test_all_off_shows_nothing() -> None:
    assert signs([[0, 0, 0]]) == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("events_per_minute", -1),
        ("events_per_minute", 1),
        ("regular", 1.1),
        ("jitter", -0.1),
        ("min_events", 2),
        ("length_factor", 0.5),
        ("length_quantile", 1.5),
    ],
)
def test_settings_out_of_range(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"\$\.thin\.bots\.{field}"):
        Bots(**{field: value})
