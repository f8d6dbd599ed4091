"""Figures and differences by hand, and against the comparison of models that `millirec evaluate` makes."""

import math

import numpy as np
import pytest

from millirec.data.errors import DataError
from millirec.frontier.examination import Answers
from millirec.frontier.quality import COVERAGE, NDCG, RECALL, Judge, contrast
from millirec.train.compare import contrasts


def answers(ranks: list[int], top: list[list[int]] | None = None, users: list[int] | None = None) -> Answers:
    lists = np.zeros((len(ranks), 10), np.int32)
    for i, row in enumerate(top or ()):
        lists[i, : len(row)] = row
    return Answers(np.array(ranks), lists, np.array(users or range(len(ranks)), np.int32))


def test_by_hand() -> None:
    """Of three targets the teacher has two first; the other one first, one third (worth 1 / log2(4) = 1/2)."""
    teacher = answers([1, 1, 50], [[1, 2], [1, 2], [1]])
    other = answers([1, 3, 50], [[1, 3], [4, 2], [1]])
    found = Judge(teacher, 10).quality(other)
    assert found.figures[NDCG].value == pytest.approx(0.5)
    assert found.figures[RECALL].value == pytest.approx(2 / 3)
    assert found.figures[COVERAGE].value == pytest.approx(0.4)
    assert found.kept.value == pytest.approx(0.75)
    assert found.to_teacher[NDCG].difference == pytest.approx(-1 / 6)
    assert found.to_teacher[RECALL].difference == 0
    assert found.to_teacher[COVERAGE].difference == pytest.approx(0.2)
    assert (found.n_targets, found.n_users) == (3, 3)
    assert found.kept.low == pytest.approx(0.5)  # a draw of the second user alone, or with the third


def test_the_teacher_keeps_all_of_itself() -> None:
    teacher = answers([1, 2, 30, 4, 5])
    own = Judge(teacher, 10).quality(teacher)
    assert (own.kept.value, own.kept.low, own.kept.high) == (1, 1, 1)
    assert [found.p_value for found in own.to_teacher.values()] == [1, 1, 1]


def test_the_same_difference_as_the_comparison_of_models() -> None:
    rng = np.random.default_rng(0)
    users = rng.integers(0, 60, 300).tolist()
    a, b = (answers(rng.integers(1, 30, 300).tolist(), users=users) for _ in range(2))
    other = next(found for found in contrasts(["a", "b"], [a.ranks, b.ranks], a.users) if found.metric == NDCG)
    found = contrast(a, b)
    assert found.difference == pytest.approx(other.difference)
    assert found.p_value == pytest.approx(other.p_value, abs=0.04)
    assert found.low == pytest.approx(other.low, abs=0.01)
    assert found.high == pytest.approx(other.high, abs=0.01)


def test_less_noise_makes_the_bound_of_kept_quality_rise() -> None:
    """Half of the users lose a tenth of what the teacher gives them: 95 % is kept, of many more surely than of few."""
    lows = []
    for n in (40, 4000):
        ranks = np.ones(n, np.int64)
        worse = np.where(np.arange(n) % 2, 1, 2)
        found = Judge(answers(ranks.tolist()), 5).quality(answers(worse.tolist()))
        assert found.kept.value == pytest.approx((1 + 1 / math.log2(3)) / 2)
        lows.append(found.kept.low)
    assert lows[0] < lows[1] < found.kept.value


def test_a_teacher_that_finds_nothing_is_none() -> None:
    with pytest.raises(DataError, match="teacher finds none"):
        Judge(answers([50, 60]), 5).quality(answers([1, 1]))
