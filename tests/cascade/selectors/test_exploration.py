"""What is left to chance: lists are as frequent as their propensities say, and the same for the same request."""

import math
from collections import Counter
from itertools import permutations

import msgspec
import pytest
from scipy.stats import chisquare

from millirec.cascade.cascade import Cascade, CascadeConfig
from millirec.cascade.query import Ranking, Shelf
from millirec.cascade.selectors import EpsilonSelector, MMRSelector, QuotaSelector, SoftmaxSelector, ThompsonSelector
from millirec.cascade.selectors.chance import uniform
from millirec.data.errors import ConfigError
from tests.cascade.selectors.test_quota import VECTOR, genre
from tests.shelves import ask, rows_of, shelf_of

EXPLORERS = [
    EpsilonSelector(epsilon=0.4, pool=4),
    EpsilonSelector(epsilon=1.0, pool=4),
    SoftmaxSelector(temperature=0.5, pool=4),
    SoftmaxSelector(temperature=100, pool=4),
    ThompsonSelector(pool=4),
]


def answers(shelf: Shelf, selector: object, n: int, k: int = 2) -> list[Ranking]:
    cascade = Cascade(CascadeConfig(selectors=(selector,)), shelf)  # type: ignore[arg-type]
    return cascade.run([ask(k, VECTOR, request_id=f"request-{i}") for i in range(n)])


def probability(ranking: Ranking) -> float:
    """Of the whole list: each propensity is given the items before it."""
    assert ranking.propensities is not None
    return math.prod(ranking.propensities)


@pytest.mark.parametrize("selector", EXPLORERS)
def test_lists_are_as_frequent_as_their_propensities_say(selector: object) -> None:
    drawn = answers(shelf_of(30), selector, 6_000)
    said = {answer.items: probability(answer) for answer in drawn}
    assert len(said) == 12  # every ordered pair of the pool was met
    assert sum(said.values()) == pytest.approx(1)
    for answer in drawn:
        assert said[answer.items] == pytest.approx(probability(answer))
    counts = Counter(answer.items for answer in drawn)
    test = chisquare([counts[items] for items in said], [p * len(drawn) for p in said.values()])
    assert test.pvalue > 0.01


def test_softmax_propensities_are_those_of_plackett_and_luce() -> None:
    shelf = shelf_of(30)
    best = Cascade(CascadeConfig(), shelf).run([ask(3, VECTOR)])[0]
    low, high = min(best.scores), max(best.scores)
    strength = {
        item: math.exp((score - low) / (high - low) / 0.7) for item, score in zip(best.items, best.scores, strict=True)
    }
    said = {a.items: a.propensities for a in answers(shelf, SoftmaxSelector(temperature=0.7, pool=3), 500, 3)}
    for order in permutations(strength):
        left, expected = sum(strength.values()), []
        for item in order:
            expected.append(strength[item] / left)
            left -= strength[item]
        assert said[order] == pytest.approx(expected)


def test_epsilon_propensities_by_hand() -> None:
    shelf = shelf_of(30)
    best = Cascade(CascadeConfig(), shelf).run([ask(4, VECTOR)])[0].items
    for answer in answers(shelf, EpsilonSelector(epsilon=0.4, pool=4), 200):
        left = list(best)
        assert answer.propensities is not None
        for item, said in zip(answer.items, answer.propensities, strict=True):
            assert said == pytest.approx(0.4 / len(left) + (0.6 if item == left[0] else 0))
            left.remove(item)


def test_no_chance_is_the_best_list() -> None:
    shelf = shelf_of(30)
    best = Cascade(CascadeConfig(), shelf).run([ask(5, VECTOR)])[0]
    for selector in (EpsilonSelector(epsilon=0), SoftmaxSelector(temperature=1e-6)):
        answer = answers(shelf, selector, 1, 5)[0]
        assert answer.items == best.items
        assert answer.propensities == pytest.approx((1,) * 5)
    assert best.propensities is None


@pytest.mark.parametrize("selector", EXPLORERS)
def test_the_same_seed_and_request_give_the_same_list(selector: object) -> None:
    shelf = shelf_of(30)
    first = answers(shelf, selector, 50)
    assert [a.items for a in answers(shelf, selector, 50)] == [a.items for a in first]
    other = answers(shelf, msgspec.structs.replace(selector, seed=1), 50)  # type: ignore[type-var]
    assert [a.items for a in other] != [a.items for a in first]
    assert first[7].request_id == "request-7"


def test_numbers_never_change() -> None:
    """A log of impressions is read by later versions: the draws of a seed and a request are fixed for ever."""
    assert uniform(3, "a", 2).tolist() == [0.06957463743688175, 0.752187594995529]


def test_after_other_selectors() -> None:
    """Bounds hold whatever is drawn; the propensities are those of what was left to draw from."""
    shelf = shelf_of(120)
    config = CascadeConfig(
        selectors=(QuotaSelector(feature="genre", most=1, n=8), SoftmaxSelector(temperature=1, pool=8))
    )
    cascade = Cascade(config, shelf)
    for i in range(100):
        answer = cascade.run([ask(5, VECTOR, request_id=str(i))])[0]
        assert len(answer.items) == 5
        assert max(Counter(genre(row) for row in rows_of(answer) if genre(row)).values(), default=0) <= 1
    kept = CascadeConfig(selectors=(MMRSelector(relevance=0.3, n=8), EpsilonSelector(epsilon=0)))
    alone = CascadeConfig(selectors=(MMRSelector(relevance=0.3, n=8),))
    asked = ask(5, VECTOR)
    assert Cascade(kept, shelf).run([asked])[0].items == Cascade(alone, shelf).run([asked])[0].items


def test_fewer_items_than_places_and_none() -> None:
    shelf = shelf_of(5)
    for selector in EXPLORERS:
        answer = answers(shelf, selector, 1, 9)[0]
        assert set(rows_of(answer)) == {1, 2, 3, 4, 5}
        assert answer.propensities is not None
        assert answer.propensities[-1] == pytest.approx(1)
        nothing = Cascade(CascadeConfig(selectors=(selector,)), shelf).run([ask(3, VECTOR, include=[])])[0]  # type: ignore[arg-type]
        assert (nothing.items, nothing.propensities) == ((), ())


@pytest.mark.parametrize(
    ("selectors", "says"),
    [
        ([{"kind": "epsilon", "epsilon": 1.2}], "epsilon = 1.2"),
        ([{"kind": "softmax", "temperature": 0}], "temperature = 0"),
        ([{"kind": "softmax", "seed": -1}], "seed = -1"),
        ([{"kind": "softmax"}, {"kind": "top-k"}], r"selectors\[0\] \(\"softmax\"\) draws, and others choose after it"),
        ([{"kind": "epsilon"}, {"kind": "softmax"}], r"selectors\[0\]"),
    ],
)
def test_bad_settings_are_refused(selectors: list[dict], says: str) -> None:
    with pytest.raises((ConfigError, msgspec.ValidationError), match=says):
        msgspec.convert({"selectors": selectors}, CascadeConfig)
