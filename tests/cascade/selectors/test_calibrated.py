"""Calibration against a direct greedy over the definition, and its effect."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.cascade.cascade import Cascade, CascadeConfig
from millirec.cascade.selectors import CalibratedSelector
from millirec.data.errors import ConfigError
from tests.cascade.selectors.test_quota import VECTOR, genre, tags
from tests.shelves import TAGS, ask, rows_of, shelf_of


def mixture(values_of: list[list[str]]) -> dict[str, float]:
    """The mean over items of their values, each item in equal parts."""
    out: dict[str, float] = {}
    for values in values_of:
        for value in values:
            out[value] = out.get(value, 0) + 1 / len(values) / len(values_of)
    return out


def divergence(target: dict[str, float], found: dict[str, float], smooth: float) -> float:
    return sum(p * math.log(p / ((1 - smooth) * found.get(value, 0) + smooth * p)) for value, p in target.items())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.integers(1, 8),
    st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    st.integers(0, 5),
)
def test_each_step_is_the_best_by_definition(history: list[int], k: int, weight: float, seed: int) -> None:
    shelf = shelf_of(40, seed=seed)
    target = mixture([tags(shelf, row) for row in history if tags(shelf, row)])
    config = CascadeConfig(selectors=(CalibratedSelector(feature="tags", calibration=weight, pool=30),))
    got = Cascade(config, shelf).run([ask(k, VECTOR, history=history)])[0]
    pool = Cascade(CascadeConfig(), shelf).run([ask(30, VECTOR)])[0]
    low, high = min(pool.scores), max(pool.scores)
    score = {row: (s - low) / (high - low) for row, s in zip(rows_of(pool), pool.scores, strict=True)}

    def worth(rows: list[int]) -> float:
        found: dict[str, float] = {}
        for row in rows:
            for tag in tags(shelf, row):
                found[tag] = found.get(tag, 0) + 1 / len(tags(shelf, row)) / len(rows)
        return (1 - weight) * sum(score[row] for row in rows) - weight * divergence(target, found, 0.01)

    taken: list[int] = []
    for row in rows_of(got):
        best = max(worth([*taken, other]) for other in score if other not in taken)
        assert worth([*taken, row]) == pytest.approx(best, abs=1e-6)
        taken.append(row)
    assert len(taken) == k


def test_a_list_follows_the_history() -> None:
    shelf = shelf_of(400)
    history = [row for row in range(1, 60) if genre(row) == "war"][:7]
    history += [row for row in range(1, 60) if genre(row) == "drama"][:3]
    config = CascadeConfig(selectors=(CalibratedSelector(feature="genre", calibration=0.99, pool=400),))
    got = Cascade(config, shelf).run([ask(10, VECTOR, history=[*history, 0, 0])])[0]
    counts = [sum(genre(row) == name for row in rows_of(got)) for name in ("war", "drama", "comedy")]
    assert counts == [7, 3, 0]


def test_without_a_history_or_values_the_best_scores_are_taken() -> None:
    shelf = shelf_of(60)
    plain = Cascade(CascadeConfig(), shelf)
    config = CascadeConfig(selectors=(CalibratedSelector(feature="tags", calibration=0.9),))
    bare = next(row for row in range(1, 61) if not tags(shelf, row))
    for history in (None, [], [0], [bare]):
        asked = ask(7, VECTOR) if history is None else ask(7, VECTOR, history=history)
        assert Cascade(config, shelf).run([asked])[0].items == plain.run([ask(7, VECTOR)])[0].items
    only = np.zeros(61, bool)
    assert Cascade(config, shelf).run([ask(7, VECTOR, history=[1], where=only)])[0].items == ()
    assert len(TAGS) == 4


@pytest.mark.parametrize(("name", "share"), [("calibration", 1.1), ("smoothing", 0.0)])
def test_bad_settings_are_refused(name: str, share: float) -> None:
    with pytest.raises(ConfigError, match=name):
        CalibratedSelector(feature="genre", **{name: share})
