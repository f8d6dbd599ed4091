"""Medians, spread, and what counts as noisy."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millirec.frontier.config import Measure, Variant
from millirec.frontier.schedule import AGAIN, FIRST, schedule
from millirec.frontier.speed import Spread, speed
from millirec.frontier.visit import Visit


def seen(requests: float = 1000.0, p99: float = 2.0, **more: Any) -> Visit:
    plain = {
        "start_seconds": 1.0, "cpu": 0.99, "cpu_seconds": 0.5, "memory_mb": 100.0, "p50_ms": 1.0, "p90_ms": 1.5,
        "stages": {"encode": (10.0, 20.0, 30.0)}, "errors": {}, "short": False,
    }  # fmt: skip
    return Visit(requests_per_second=requests, p99_ms=p99, **plain | more)


def test_spread_by_hand() -> None:
    """Median 3; distances 2, 1, 0, 1, 7: their median is 1."""
    found = Spread.of([1, 2, 3, 4, 10])
    assert (found.median, found.low, found.high, found.mad) == (3, 1, 10, 1)
    assert found.relative == pytest.approx(1 / 3)
    assert Spread.of([0.0]).relative == 0


def test_rounds_become_medians() -> None:
    stages = [{"encode": (a, 20.0, 30.0), "top-k": (1.0, 1.0, 1.0)} for a in (10.0, 12.0, 50.0)]
    found = speed([seen(n, stages=s) for n, s in zip((900, 1000, 1010), stages, strict=True)], (), 0.1)
    assert found.requests_per_second.median == 1000
    assert found.stages == {"encode": (12.0, 20.0, 30.0), "top-k": (1.0, 1.0, 1.0)}
    assert found.noisy == ()


def test_one_bad_round_of_three_is_not_noise_but_a_restless_machine_is() -> None:
    assert speed([seen(1000), seen(990), seen(400)], (), 0.1).noisy == ()
    (reason,) = speed([seen(1000), seen(700), seen(1300)], (), 0.1).noisy
    assert reason == "requests/s deviates by 30% from round to round"


def test_the_same_thing_measured_twice_must_agree() -> None:
    assert speed([seen(1000)], [seen(1090)], 0.1).noisy == ()
    (reason,) = speed([seen(1000)], [seen(1120)], 0.1).noisy
    assert "1,000 at the beginning of the rounds and 1,120 at their end" in reason
    assert speed([seen(p99=2.0)] * 2, [seen(p99=3.0)] * 2, 0.3).noisy[0].startswith("p99 was 2 ")


def test_a_server_that_shares_its_core_and_a_slow_generator_are_told() -> None:
    assert "got 50% of its core" in speed([seen(cpu=0.5)], (), 0.1).noisy[0]
    assert "generator" in speed([seen(short=True)], (), 0.1).noisy[0]


def test_errors_add_up() -> None:
    assert speed([seen(errors={"503": 2}), seen(errors={"503": 1, "no answer": 4})], (), 0.1).errors == {
        "503": 3,
        "no answer": 4,
    }


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 9))
def test_a_round_visits_everyone_once_and_the_first_twice(n: int, rounds: int, seed: int) -> None:
    variants = [Variant(name=f"v{i}") for i in range(n)]
    visits = list(schedule(variants, Measure(rounds=rounds, seed=seed)))
    assert len(visits) == rounds * (n + 1)
    for number in range(rounds):
        own = visits[number * (n + 1) : (number + 1) * (n + 1)]
        assert [found for found, _, _ in own] == [number] * (n + 1)
        assert own[0][1:] == (FIRST, variants[0])
        assert own[-1][1:] == (AGAIN, variants[0])
        assert {variant.name for _, _, variant in own[:-1]} == {variant.name for variant in variants}
    assert visits == list(schedule(variants, Measure(rounds=rounds, seed=seed)))


def test_the_order_changes_from_round_to_round() -> None:
    visits = list(schedule([Variant(name=f"v{i}") for i in range(6)], Measure(rounds=6)))
    orders = {tuple(variant.name for number, _, variant in visits if number == i) for i in range(6)}
    assert len(orders) > 3
