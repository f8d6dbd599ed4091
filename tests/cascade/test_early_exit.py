"""When a ranker may stop: the bound by hand, what it promises, and what is asked of the network."""

import numpy as np
import pytest

from millirec.cascade.early_exit import Bounds, EarlyExit, scored
from millirec.cascade.query import Retrieved
from millirec.cascade.scorers import RankerScorer, Scored
from millirec.data.errors import ConfigError

N = 40


class Lists:
    """A ranker of lists whose logits fall by `slope` from place to place, with noise; it keeps what it was asked."""

    def __init__(self, slope: float, seed: int = 0) -> None:
        self._rng, self._slope = np.random.default_rng(seed), slope
        self.next()

    def next(self) -> None:
        """Another list."""
        noise = self._rng.normal(size=N)
        self.logits = (noise - self._slope * np.arange(N)).astype(np.float32)
        self.asked: list[tuple[int, int]] = []

    def __call__(self, rows: np.ndarray, told: Retrieved | None) -> Scored:
        assert told is not None
        first = int(told.ranks[0]) - 1
        assert rows.tolist() == told.ranks.tolist() == list(range(first + 1, first + 1 + len(rows)))
        self.asked.append((first, len(rows)))
        logits = self.logits[first : first + len(rows)]
        return Scored(logits, 0.5 + 0.5 * np.tanh(logits / 2), 1.0)


ROWS = np.arange(1, N + 1, dtype=np.int32)
SCORES = Retrieved(-ROWS.astype(np.float32), ROWS.astype(np.float64))


def test_the_bound_by_hand() -> None:
    """Two places to stop share an error of 0.4: of 4 lists, the 4th smallest gap (5 * 0.8 = 4) is the bound."""
    bounds = Bounds(EarlyExit(block=2, confidence=0.6), 6)
    assert bounds.ends == (2, 4)
    for gap in (0.5, -1.0, 0.25):
        bounds.learn(np.array([0, -2, gap, -3, gap - 7, -9], np.float32))
        assert bounds.is_audit()
        assert not bounds.is_done(0, np.array([100, 99], np.float32), 1)
    bounds.learn(np.array([-5, -4, -6, -7, -8, -9], np.float32))  # gaps -2 and -2
    # at the first place the gaps are 0.5, -1, 0.25, -2; at the second -7, -7, -7, -2
    assert bounds.is_done(0, np.array([3.0, 2.4], np.float32), 1) is False  # 3 against 3 + 0.5
    assert bounds.is_done(1, np.array([3.0, 2.4, -1.0, 2.0], np.float32), 2)  # 2.4 against 2 - 2
    assert not bounds.is_done(1, np.array([3.0, -0.5, -1.0, 2.0], np.float32), 4)  # -1 against 0
    assert not bounds.is_done(1, np.array([3.0, 2.4, 1.0, 2.0], np.float32), 5)  # there are no five


def test_the_best_change_no_more_often_than_promised() -> None:
    ranker, bounds = Lists(slope=0.1), Bounds(EarlyExit(block=10, confidence=0.9), N)
    stopped = wrong = 0
    n = 4_000
    for _ in range(n):
        ranker.next()
        found = scored(ranker, ROWS, SCORES, 5, bounds)
        np.testing.assert_array_equal(found.logits, ranker.logits[: len(found.logits)])
        assert len(found.scores) == len(found.logits)
        stopped += len(found.logits) < N
        wrong += set(found.order[:5]) != set(np.argsort(-ranker.logits)[:5])
    assert stopped > n / 3
    assert 0 < wrong <= 0.1 * n


def test_blocks_follow_each_other_and_stop_soonest_where_scores_fall_fast() -> None:
    sharp, flat = Lists(slope=3.0), Lists(slope=0.0)
    for ranker, ends in ((sharp, {10}), (flat, {N})):
        bounds, seen = Bounds(EarlyExit(block=10, confidence=0.9, audit=4), N), set()
        for _ in range(400):
            ranker.next()
            audit = bounds._bounds is None
            found = scored(ranker, ROWS, SCORES, 3, bounds)
            if not audit and ranker.asked != [(0, N)]:
                assert ranker.asked == [(at, 10) for at in range(0, len(found.logits), 10)]
                seen.add(len(found.logits))
        assert seen == ends


def test_some_lists_are_scored_whole_for_ever() -> None:
    ranker, bounds = Lists(slope=3.0), Bounds(EarlyExit(block=10, confidence=0.9, audit=4), N)
    whole = []
    for _ in range(1_000):
        ranker.next()
        scored(ranker, ROWS, SCORES, 3, bounds)
        whole.append(ranker.asked == [(0, N)])
    assert all(whole[:29])  # 3 places: an error of 1/30 each needs 29 lists
    assert whole[29:45].count(True) < 16
    assert 0.15 < np.mean(whole[100:]) < 0.35


def test_what_is_no_number_teaches_nothing() -> None:
    bounds = Bounds(EarlyExit(block=10, confidence=0.9), N)
    bad = np.zeros(N, np.float32)
    bad[3] = np.nan
    for _ in range(100):
        bounds.learn(bad)
    assert bounds.is_audit()


def test_settings_out_of_range_are_refused() -> None:
    for bad in ({"block": 0}, {"confidence": 0.4}, {"confidence": 1.0}, {"audit": 1}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            EarlyExit(**bad)
    with pytest.raises(ConfigError, match="nothing to save"):
        RankerScorer(candidates=50, early_exit=EarlyExit(block=50))
