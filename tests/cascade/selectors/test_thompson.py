"""Thompson sampling: an item stands at a place as often as its rate is the largest, and the propensity says so."""

import math
from collections import Counter
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta as beta_distribution
from scipy.stats import chisquare

from millirec.cascade.cascade import Cascade, CascadeConfig
from millirec.cascade.query import Ranking
from millirec.cascade.selectors import ThompsonSelector
from millirec.cascade.selectors.posterior import Race
from millirec.data.errors import ConfigError
from tests.cascade.selectors.test_quota import VECTOR
from tests.shelves import ask, rows_of, shelf_of

Numbers = NDArray[np.float64]
CLOSE = 0.005  # as `Race` says


def largest(a: Numbers, b: Numbers) -> Numbers:
    """The probability that each Beta is the largest: the integral of its density times the others' distributions."""
    tails = np.concatenate([np.logspace(-12, -2, 50), np.linspace(0.01, 0.99, 300)])
    places = np.concatenate([tails, 1 - tails])
    rates = np.unique(np.concatenate([beta_distribution(*pair).ppf(places) for pair in zip(a, b, strict=True)]))
    below = np.array([beta_distribution(*pair).cdf(rates) for pair in zip(a, b, strict=True)])
    out = []
    for own in range(len(a)):
        others = np.delete(below, own, 0).prod(0)
        out.append((np.diff(below[own]) * (others[1:] + others[:-1]) / 2).sum())
    return np.array(out)


COUNTS = st.lists(st.tuples(st.integers(0, 30_000), st.floats(0, 0.5)), min_size=2, max_size=6)
PRIORS = st.sampled_from([(1.0, 1.0), (0.1, 0.1), (0.5, 30.0), (1.0, 100.0), (20.0, 2.0)])


@settings(max_examples=25, deadline=None)
@given(COUNTS, PRIORS)
def test_chances_are_the_integral(counts: list[tuple[int, float]], prior: tuple[float, float]) -> None:
    shown = np.array([n for n, _ in counts], float)
    successes = np.floor(shown * [rate for _, rate in counts])
    a, b = prior[0] + successes, prior[1] + shown - successes
    race = Race(a, b, 2)
    first = race.chances()
    assert first.sum() == pytest.approx(1)
    np.testing.assert_allclose(first, largest(a, b), atol=CLOSE)
    gone = int(first.argmax())
    race.take(gone)
    left = np.delete(race.chances(), gone)
    assert race.chances()[gone] == 0
    np.testing.assert_allclose(left, largest(np.delete(a, gone), np.delete(b, gone)), atol=CLOSE)


def test_chances_are_those_of_draws() -> None:
    """By brute force: how often each of a hundred real draws is the largest."""
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 3_000, 100)
    successes = rng.binomial(shown, rng.uniform(0.01, 0.06, 100))
    a, b = 1.0 + successes, 20.0 + shown - successes
    won = np.bincount(rng.beta(a, b, (100_000, 100)).argmax(axis=1), minlength=100) / 100_000
    np.testing.assert_allclose(Race(a, b, 1).chances(), won, atol=CLOSE)


def test_nobody_is_preferred_for_nothing_and_all_are_taken_once() -> None:
    n = 300
    race = Race(np.full(n, 2.0), np.full(n, 50.0), n)
    for left in range(n, 0, -1):
        chances = race.chances()
        assert chances[n - left :] == pytest.approx(np.full(left, 1 / left))
        race.take(n - left)


def answers(
    selector: ThompsonSelector, outcomes: dict[int, tuple[float, float]], n: int, k: int = 2, seen: tuple[int, ...] = ()
) -> list[Ranking]:
    """`outcomes`: row -> successes, impressions."""

    def told(rows: NDArray[np.int32]) -> tuple[Numbers, Numbers]:
        successes, shown = zip(*[outcomes.get(row, (0.0, 0.0)) for row in rows.tolist()], strict=True)
        return np.array(successes), np.array(shown)

    cascade = Cascade(CascadeConfig(selectors=(selector,)), shelf_of(30))
    asked = [ask(k, VECTOR, request_id=f"request-{i}", seen=list(seen)) for i in range(n)]
    return cascade.run([replace(one, outcomes=told) for one in asked])


def best(k: int) -> list[int]:
    return rows_of(Cascade(CascadeConfig(), shelf_of(30)).run([ask(k, VECTOR)])[0])


def test_lists_are_as_frequent_as_their_propensities_say_and_as_draws_are() -> None:
    """Over request ids, and against real draws, anew for each place."""
    rows = best(4)
    outcomes = dict(zip(rows, [(3.0, 20.0), (1.0, 5.0), (30.0, 150.0), (0.0, 12.0)], strict=True))
    drawn = answers(ThompsonSelector(pool=4, beta=2), outcomes, 6_000)
    said = {tuple(rows_of(answer)): math.prod(answer.propensities or ()) for answer in drawn}
    counts = Counter(tuple(rows_of(answer)) for answer in drawn)
    assert sum(said.values()) == pytest.approx(1, abs=0.01)  # a pair that is rare may not have come
    many = [pair for pair in said if said[pair] * 6_000 >= 5]
    expected = np.array([said[pair] for pair in many])
    observed = np.array([counts[pair] for pair in many])
    assert chisquare(observed, expected / expected.sum() * observed.sum()).pvalue > 0.01

    rng = np.random.default_rng(0)
    a, b = (np.array(values) for values in zip(*[(1 + s, 2 + n - s) for s, n in outcomes.values()], strict=True))
    first, second = (rng.beta(a, b, (100_000, 4)) for _ in range(2))
    winners = first.argmax(1)
    second[np.arange(100_000), winners] = -1
    pairs = Counter(zip(winners.tolist(), second.argmax(1).tolist(), strict=True))
    for pair, chance in said.items():
        places = (rows.index(pair[0]), rows.index(pair[1]))
        assert pairs[places] / 100_000 == pytest.approx(chance, abs=CLOSE)


def test_successes_win_and_more_of_them_than_impressions_count_as_so_many() -> None:
    rows = best(5)
    outcomes = dict.fromkeys(rows, (20.0, 2_000.0)) | {rows[3]: (400.0, 2_000.0), rows[4]: (5_000.0, 0.0)}
    selector = ThompsonSelector(alpha=1, beta=5_000, pool=5)
    for answer in answers(selector, outcomes, 20, k=1):
        assert rows_of(answer) == [rows[3]]
        assert answer.propensities == pytest.approx((1.0,))


def test_slots_are_the_last_places() -> None:
    rows = best(12)
    outcomes = {row: (float(row % 3), 5.0) for row in rows}
    found = answers(ThompsonSelector(slots=2, pool=12), outcomes, 50, k=5)
    for answer in found:
        assert rows_of(answer)[:3] == rows[:3]
        assert answer.propensities is not None
        assert answer.propensities[:3] == (1.0, 1.0, 1.0)
        assert all(0 < chance < 0.6 for chance in answer.propensities[3:])
        assert set(rows_of(answer)[3:]) <= set(rows[3:])
    assert len({answer.items[3:] for answer in found}) > 20
    whole = ThompsonSelector(pool=12)
    many = answers(msgspec.structs.replace(whole, slots=9), outcomes, 5, k=5)
    assert [answer.items for answer in many] == [answer.items for answer in answers(whole, outcomes, 5, k=5)]
    short = answers(ThompsonSelector(slots=2), outcomes, 1, k=5, seen=tuple(range(1, 28)))[0]
    assert len(short.items) == 3
    assert short.propensities is not None
    assert short.propensities[0] == 1 > short.propensities[1]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"alpha": 0}, "alpha = 0"),
        ({"beta": -1.5}, r"beta = -1.5"),
        ({"beta": 1e12}, r"beta = 1"),
        ({"success": ""}, "success = ''"),
        ({"success": "impression"}, "success = 'impression'"),
        ({"half_life": "1 week"}, "half_life = '1 week'"),
        ({"slots": 0}, "slots = 0"),
        ({"pool": 0}, r"pool = 0"),
        ({"seed": -1}, r"seed = -1"),
        ({"gamma": 1}, "gamma"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], says: str) -> None:
    with pytest.raises((ConfigError, msgspec.ValidationError), match=says):
        msgspec.convert({"selectors": [{"kind": "thompson"} | settings]}, CascadeConfig)
    with pytest.raises(ConfigError):
        ThompsonSelector(alpha=float("nan"))
