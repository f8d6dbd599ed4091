"""Near-duplicate histories: what is dropped really resembles what is kept, and planted copies are found."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.data.errors import ConfigError
from millirec.data.near import Copies, Duplicates, near_duplicates


def found(histories: list[list[int]], **settings_: float) -> Copies:
    items = np.array([item for history in histories for item in history], np.int32)
    return near_duplicates(items, np.array([len(h) for h in histories], np.int64), Duplicates(**settings_))


def jaccard(a: list[int], b: list[int], size: int) -> float:
    x, y = ({tuple(h[i : i + size]) for i in range(len(h) - size + 1)} for h in (a, b))
    return len(x & y) / len(x | y)


BASE = list(range(1, 21))
CHANGED = [*BASE[:-1], 99]
OTHER = list(range(200, 220))


def test_by_hand() -> None:
    """Of 20 items the last differs: 19 of 21 items are common, and 18 of 20 pairs."""
    for shingle, similarity in ((1, 19 / 21), (2, 18 / 20), (3, 17 / 19)):
        copies = found([OTHER, BASE, CHANGED], shingle=shingle, similarity=similarity)
        assert (copies.dropped.tolist(), copies.kept.tolist()) == ([2], [1])
        assert copies.similarity.tolist() == [pytest.approx(similarity)]
        assert not len(found([OTHER, BASE, CHANGED], shingle=shingle, similarity=similarity + 1e-6).dropped)


def test_the_longest_is_kept_then_the_first() -> None:
    copies = found([BASE, [*BASE, 21, 22], BASE, OTHER], similarity=0.8)
    assert (copies.dropped.tolist(), copies.kept.tolist()) == ([0, 2], [1, 1])
    copies = found([OTHER, BASE, BASE, BASE])
    assert (copies.dropped.tolist(), copies.kept.tolist()) == ([2, 3], [1, 1])


def test_what_resembles_only_a_dropped_one_stays() -> None:
    """A chain: each is like the next one, and like no other."""
    chain = [list(range(start, 40)) for start in (0, 5, 10, 14)]  # 40, 35, 30, 26 items, one in the other
    copies = found(chain, shingle=1, similarity=0.8)
    assert jaccard(chain[0], chain[2], 1) == 0.75
    assert (copies.dropped.tolist(), copies.kept.tolist()) == ([1, 3], [0, 2])


def test_order_counts_for_shingles_of_two_and_not_for_one() -> None:
    turned = BASE[::-1]
    assert not len(found([BASE, turned]).dropped)
    assert found([BASE, turned], shingle=1).similarity.tolist() == [1.0]


def test_short_histories_are_left_alone() -> None:
    assert not len(found([[1, 2, 3]] * 5).dropped)
    assert len(found([[1, 2, 3]] * 5, min_events=3).dropped) == 4
    for nothing in ([], [[]], [[1]], [[], [1, 2]]):
        assert not len(found(nothing).dropped)


def test_planted_copies_are_found_and_no_others() -> None:
    """200 users, 60 of them copied once or twice with 4 % of the items exchanged."""
    rng = np.random.default_rng(0)
    real = [rng.integers(1, 2000, rng.integers(30, 120)).tolist() for _ in range(200)]
    copies = []
    for history in real[:60]:
        for _ in range(int(rng.integers(1, 3))):
            copy = np.array(history)
            places = rng.random(len(copy)) < 0.04
            copy[places] = rng.integers(1, 2000, int(places.sum()))
            copies.append(copy.tolist())
    everyone = [*real, *copies]
    out = found(everyone, similarity=0.7)
    assert len(out.dropped) > 0.9 * len(copies)
    assert not set(out.dropped.tolist()) & set(range(60, 200))
    left = sorted(set(range(len(everyone))) - set(out.dropped.tolist()))
    assert max(jaccard(everyone[a], everyone[b], 2) for a, b in combinations(left, 2)) < 0.7


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 6), min_size=0, max_size=12), max_size=12),
    st.sampled_from([0.3, 0.6, 0.9, 1.0]),
    st.sampled_from([1, 2, 3]),
)
def test_all_that_is_dropped_resembles_something_kept(
    histories: list[list[int]], similarity: float, shingle: int
) -> None:
    copies = found(histories, similarity=similarity, shingle=shingle, min_events=3)
    assert len(np.unique(copies.dropped)) == len(copies.dropped)
    for out, kept, alike in zip(copies.dropped, copies.kept, copies.similarity, strict=True):
        assert kept not in copies.dropped
        assert (len(histories[kept]), -kept) > (len(histories[out]), -out)
        assert alike == pytest.approx(jaccard(histories[out], histories[kept], shingle))
        assert alike >= similarity


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"similarity": 0.1}, "similarity"),
        ({"similarity": float("nan")}, "similarity"),
        ({"shingle": 0}, "shingle"),
        ({"min_events": 1}, "min_events"),
        ({"min_events": 2, "shingle": 3}, "min_events"),
    ],
)
def test_settings_out_of_range(wrong: dict[str, float], field: str) -> None:
    with pytest.raises(ConfigError, match=rf"\$\.thin\.duplicates\.{field}"):
        Duplicates(**wrong)
