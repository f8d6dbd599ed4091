"""Who is chosen, and what is said about it."""

import pytest

from millirec.frontier.choice import Candidate, Choice, choose
from millirec.frontier.config import Limits
from millirec.frontier.quality import Contrast


def candidate(name: str, ndcg: float, requests: float = 100.0, **more: float) -> Candidate:
    figures = {"kept_low": ndcg / 0.2, "p99_ms": 5.0, "memory_mb": 100.0, "bundle_mb": 2.0} | more
    return Candidate(name=name, ndcg=ndcg, requests_per_second=requests, **figures)


class Paired:
    """The paired test: differences as they are, and a p-value for all."""

    def __init__(self, candidates: list[Candidate], p_value: float) -> None:
        self.ndcg, self.p_value = {one.name: one.ndcg for one in candidates}, p_value

    def __call__(self, a: str, b: str) -> Contrast:
        difference = self.ndcg[a] - self.ndcg[b]
        return Contrast(difference=difference, low=difference, high=difference, p_value=self.p_value)


TEACHER = candidate("teacher", 0.2, 100)


def chosen(
    *others: Candidate, limits: Limits | None = None, gate: float | None = None, p_value: float = 0.01
) -> Choice:
    everyone = [TEACHER, *others]
    return choose(everyone, limits or Limits(), gate, Paired(everyone, p_value))


def test_the_highest_quality_wins_when_the_difference_is_sure() -> None:
    choice = chosen(candidate("small", 0.1995, 900))
    assert (choice.chosen, choice.runner_up) == ("teacher", "small")
    assert "highest NDCG@10, 0.2000, of the 2" in choice.reason
    assert "NDCG@10 -0.0005 (p = 0.01)" in choice.runner_up_costs
    assert "requests/s x 9.00" in choice.runner_up_costs


def test_within_the_noise_the_cheaper_wins() -> None:
    choice = chosen(candidate("small", 0.1995, 900), candidate("middle", 0.1999, 300), p_value=0.4)
    assert (choice.chosen, choice.runner_up) == ("small", "middle")
    assert "the same within the noise as the highest, teacher with 0.2000 (p = 0.4, -0.25%)" in choice.reason
    assert "900 requests/s against 100" in choice.reason


def test_a_difference_that_is_not_proven_but_large_is_no_noise() -> None:
    """0.5 % of 0.2 is 0.001: few users make a large difference unsure, not small."""
    assert chosen(candidate("small", 0.1990, 900), p_value=0.4).chosen == "teacher"
    assert chosen(candidate("small", 0.1991, 900), p_value=0.4).chosen == "small"


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(max_p99_ms=4), "max_p99_ms: 5, 25.0% above 4"),
        (Limits(max_memory_mb=80), "max_memory_mb: 100, 25.0% above 80"),
        (Limits(max_bundle_mb=1.6), "max_bundle_mb: 2, 25.0% above 1.6"),
        (Limits(min_quality=0.25), "min_quality: 0.2, 20.0% below 0.25"),
        (Limits(min_quality_share=1.25), "min_quality_share: 1, 20.0% below 1.25"),
    ],
)
def test_nothing_fits(limits: Limits, words: str) -> None:
    choice = chosen(limits=limits)
    assert (choice.chosen, choice.nearest) == (None, "teacher")
    assert words in choice.reason


def test_the_nearest_is_the_one_whose_worst_miss_is_least() -> None:
    """near misses two limits by 10 % each, the teacher one by 25 %, far one by 100 % and another by 1 %."""
    near = candidate("near", 0.18, p99_ms=4.4)
    far = candidate("far", 0.198, p99_ms=8.0)
    choice = chosen(near, far, limits=Limits(max_p99_ms=4, min_quality=0.2))
    assert choice.nearest == "near"
    assert {name: len(found) for name, found in choice.misses.items()} == {"teacher": 1, "near": 2, "far": 2}


def test_limits_leave_only_who_keeps_all_of_them() -> None:
    fast = candidate("fast", 0.17, 900, p99_ms=1.0)
    faster = candidate("faster", 0.15, 2000, p99_ms=0.5)
    choice = chosen(fast, faster, limits=Limits(max_p99_ms=1.0, min_quality_share=0.8))
    assert choice.chosen == "fast"
    assert choice.runner_up is None
    assert "only variant" in choice.reason
    assert choice.misses["faster"][0].limit == "min_quality_share"


def test_the_gate_looks_at_the_lower_bound_and_spares_the_teacher() -> None:
    small = candidate("small", 0.1999, 900, kept_low=0.985)
    assert chosen(small, gate=0.98, p_value=0.5).chosen == "small"
    refused = chosen(small, gate=0.99, p_value=0.5)
    assert refused.chosen == "teacher"
    assert str(refused.misses["small"][0]) == "gate: 0.985, 0.5% below 0.99"
    everyone = [candidate("teacher", 0.2, kept_low=0.5), small]  # a bound that a teacher never has
    assert choose(everyone, Limits(), 0.99, Paired(everyone, 0.01)).misses["teacher"] == ()


def test_who_answers_with_errors_is_not_chosen() -> None:
    broken = candidate("broken", 0.3, 900, errors=3)
    choice = chosen(broken)
    assert choice.chosen == "teacher"
    assert choice.misses["broken"][0].limit == "errors under load"
