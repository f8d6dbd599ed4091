"""The pre-ranker: whom it lets through, by brute force; what the ranker is told; lists that come out short."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.cascade.cascade import Cascade, CascadeConfig, check_rankers
from millirec.cascade.early_exit import EarlyExit
from millirec.cascade.query import Retrieved
from millirec.cascade.rules import Boost, boosts_of
from millirec.cascade.scorers import InnerProductScorer, PreRankerScorer, RankerScorer, Scored
from millirec.cascade.selectors import QuotaSelector
from millirec.data.errors import ConfigError
from tests.shelves import ask, rows_of, shelf_of

VECTOR = [1.0, -0.5, 0.25, 0.75]
N = 300


class Ranker:
    """Knows a logit for each row; keeps what it was asked."""

    def __init__(self, seed: int) -> None:
        self.logits = np.random.default_rng(seed).normal(size=N + 1).astype(np.float32)
        self.rows: list[list[int]] = []
        self.told: list[Retrieved | None] = []

    def __call__(self, rows: np.ndarray, told: Retrieved | None) -> Scored:
        self.rows.append(rows.tolist())
        self.told.append(told)
        logits = self.logits[rows]
        return Scored(logits, (1 / (1 + np.exp(-logits))).astype(np.float32), 1.0)


def cascade_of(pre: int, ranked: int, **more: object) -> Cascade:
    scorers = (InnerProductScorer(), PreRankerScorer(candidates=pre), RankerScorer(candidates=ranked))
    return Cascade(CascadeConfig(scorers=scorers, **more), shelf_of(N))  # type: ignore[arg-type]


def best(rows: list[int], score: Callable[[int], float], n: int) -> list[int]:
    """The n best, equal ones in their order."""
    return sorted(rows, key=lambda row: -score(row))[:n]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(21, 200), st.integers(1, 20), st.integers(1, 12))
def test_it_is_three_sorts(seed: int, pre: int, ranked: int, k: int) -> None:
    """The k best by the ranker, of the best by the pre-ranker, of the best by the inner product."""
    cascade, light, ranker = cascade_of(pre, ranked), Ranker(seed), Ranker(seed + 1)
    seen = [int(row) for row in np.random.default_rng(seed).integers(1, N, 5)]
    answer = cascade.run([ask(k, VECTOR, seen=seen, ranker=ranker, pre_ranker=light)])[0]
    scores = cascade.shelf.index.scores(np.array([VECTOR], np.float32), np.arange(N + 1, dtype=np.int32)[None])[0]
    found = best([row for row in range(1, N + 1) if row not in seen], lambda row: scores[row], pre)
    through = best(found, lambda row: light.logits[row], max(ranked, k))
    assert rows_of(answer) == best(through, lambda row: ranker.logits[row], k)
    assert sorted(light.rows[0]) == sorted(found)
    assert sorted(ranker.rows[0]) == sorted(through)
    stages = {stage.name: (stage.n_in, stage.n_out) for stage in answer.trace}
    assert stages["pre-ranker"] == (pre, pre)
    assert stages["features"] == (len(through), len(through))


def test_the_ranker_is_told_what_retrieval_said() -> None:
    """Not what the pre-ranker did: the ranker has learned from scores and places of retrieval."""
    cascade, light, ranker = cascade_of(50, 10), Ranker(1), Ranker(2)
    cascade.run([ask(5, VECTOR, ranker=ranker, pre_ranker=light)])
    first, told = light.told[0], ranker.told[0]
    assert first is not None
    assert told is not None
    assert first.ranks.tolist() == list(range(1, 51))
    assert (np.diff(first.scores) <= 0).all()
    place = {row: at for at, row in enumerate(light.rows[0])}
    at = np.array([place[row] for row in ranker.rows[0]])
    np.testing.assert_array_equal(told.ranks, at + 1.0)
    np.testing.assert_array_equal(told.scores, first.scores[at])


def test_boosts_count_for_the_pre_ranker_too() -> None:
    cascade, light, ranker = cascade_of(100, 10), Ranker(1), Ranker(2)
    fields = cascade.shelf.fields
    boosts = boosts_of(fields, (Boost(where={"genre": "war"}, add=1000.0),))
    cascade.run([ask(5, VECTOR, ranker=ranker, pre_ranker=light, boosts=boosts)])
    war = set(np.flatnonzero(boosts.group > 0).tolist())
    assert set(ranker.rows[0]) <= war
    told, whole = ranker.told[0], cascade.shelf.index
    assert told is not None  # the plain score of the model, without the boost
    rows = np.array(ranker.rows[0], np.int32)
    np.testing.assert_allclose(told.scores, whole.scores(np.array([VECTOR], np.float32), rows[None])[0], rtol=1e-6)


def test_a_short_list_is_chosen_anew_past_the_cut() -> None:
    """Of one value each, three at most: the ranker sees as many as it takes until there are three."""
    quota = QuotaSelector(feature="genre", most=1, pool=3)
    cascade, light, ranker = cascade_of(60, 3, selectors=(quota,)), Ranker(1), Ranker(2)
    for row in range(N + 1):  # the pre-ranker likes comedies alone, which GENRES[row % 3] are
        light.logits[row] += 10.0 * (row % 3 == 0)
    answer = cascade.run([ask(3, VECTOR, ranker=ranker, pre_ranker=light)])[0]
    assert len(rows_of(answer)) == 3
    assert len(ranker.rows) > 1


def test_a_short_list_of_named_items_is_chosen_anew_as_well() -> None:
    """All candidates are there from the beginning; what the pre-ranker has left out may still be needed."""
    quota = QuotaSelector(feature="genre", most=1, pool=3)
    cascade, light, ranker = cascade_of(60, 3, selectors=(quota,)), Ranker(1), Ranker(2)
    for row in range(N + 1):
        light.logits[row] += 10.0 * (row % 3 == 0)
    answer = cascade.run([ask(3, VECTOR, include=list(range(1, 41)), ranker=ranker, pre_ranker=light)])[0]
    assert len(rows_of(answer)) == 3
    assert len(ranker.rows[0]) == 3
    assert len(ranker.rows[-1]) > 3


def test_few_candidates_need_no_choice() -> None:
    cascade, light, ranker = cascade_of(60, 20), Ranker(1), Ranker(2)
    cascade.run([ask(5, VECTOR, include=[4, 7, 9], ranker=ranker, pre_ranker=light)])
    assert not light.rows
    assert sorted(ranker.rows[0]) == [4, 7, 9]


def test_without_a_user_vector_places_are_those_of_the_popular() -> None:
    cascade, light, ranker = cascade_of(60, 20), Ranker(1), Ranker(2)
    answer = cascade.run([ask(5, None, ranker=ranker, pre_ranker=light)])[0]
    assert light.told == ranker.told == [None]
    assert rows_of(answer) == best(ranker.rows[0], lambda row: ranker.logits[row], 5)


def test_early_exit_follows_the_order_of_the_pre_ranker() -> None:
    scorers = (
        InnerProductScorer(),
        PreRankerScorer(candidates=100),
        RankerScorer(candidates=40, early_exit=EarlyExit(block=10, confidence=0.9, audit=1_000)),
    )
    cascade, light = Cascade(CascadeConfig(scorers=scorers), shelf_of(N)), Ranker(1)
    for _ in range(60):
        ranker = Ranker(2)
        ranker.logits = light.logits * 3  # they agree, so the first block holds the best
        cascade.run([ask(3, VECTOR, ranker=ranker, pre_ranker=light)])
    assert len(ranker.rows) == 1
    assert ranker.rows[0] == best(light.rows[-1], lambda row: light.logits[row], 10)


def test_what_cannot_work_is_refused() -> None:
    first, pre, last = InnerProductScorer(), PreRankerScorer(), RankerScorer()
    for scorers in ((first, pre), (pre, first), (first, last, pre), (pre, first, last)):
        with pytest.raises(ConfigError, match="does not stand"):
            CascadeConfig(scorers=scorers)
    with pytest.raises(ConfigError, match="no more than the ranker takes"):
        CascadeConfig(scorers=(first, PreRankerScorer(candidates=200), last))
    with pytest.raises(ConfigError, match="candidates = 1"):
        PreRankerScorer(candidates=1)
    config = CascadeConfig(scorers=(first, pre, last))
    with pytest.raises(ConfigError, match=r"scorers\[1\] \(\"pre-ranker\"\): the bundle has no pre-ranker"):
        check_rankers(config, has_ranker=True, has_pre_ranker=False)
    check_rankers(config, has_ranker=True, has_pre_ranker=True)
