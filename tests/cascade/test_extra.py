"""What is added to the scores of some items counts for the whole catalogue: against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.cascade import cascade as module
from millirec.cascade.cascade import Cascade, CascadeConfig
from millirec.cascade.extra import Extra
from millirec.cascade.query import Asked, Shelf
from millirec.cascade.rules import Boost, boosts_of
from millirec.cascade.selectors import MMRSelector
from millirec.cascade.sources import PopularSource, SequenceSource, SimilarSource
from millirec.data.catalog import Catalog, Vocabulary
from millirec.index import ExactConfig, build
from tests.shelves import ask, rows_of, shelf_of

SHELF = shelf_of(60)
FILLED = CascadeConfig()
TOGETHER = CascadeConfig(gather="together", sources=(SequenceSource(), SimilarSource(n=5), PopularSource(n=3)))


def extra_of(pairs: dict[int, int]) -> Extra:
    rows = np.array(sorted(pairs), np.int32)
    return Extra(rows, np.array([pairs[row] / 4 for row in rows.tolist()], np.float32))


def brute_force(shelf: Shelf, asked: Asked, allowed: list[int] | None = None) -> list[int]:
    """Rows of the answer, item by item."""
    left = [row for row in allowed or range(1, shelf.n_items + 1) if row not in asked.seen and row not in asked.exclude]
    if asked.where is not None:
        left = [row for row in left if asked.where[row]]
    more = dict(zip(asked.extra.rows.tolist(), asked.extra.scores.tolist(), strict=True))
    vectors = shelf.index.vectors(np.array(left, np.int32)) if left else []
    score = {row: float(v @ asked.vector) + more.get(row, 0) for row, v in zip(left, vectors, strict=True)}
    if asked.boosts is not None:
        for row in left:
            score[row] = float(asked.boosts.boosted(np.array([row], np.int32), np.array([score[row]], np.float32))[0])
    return sorted(left, key=lambda row: (-score[row], row))[: asked.k]


rows = st.integers(1, 60)
questions = st.fixed_dictionaries(
    {
        "k": st.integers(1, 70),
        "vector": st.lists(st.integers(-8, 8).map(lambda n: n / 4), min_size=4, max_size=4),
        "seen": st.lists(rows, max_size=30),
        "exclude": st.lists(rows, max_size=5),
        "extra": st.dictionaries(rows, st.integers(1, 40), max_size=25).map(extra_of),
    }
)


@settings(max_examples=150, deadline=None)
@given(st.lists(questions, min_size=1, max_size=4), st.sampled_from([4, 1_024]))
def test_answers_equal_brute_force(drawn: list[dict], first: int) -> None:
    before, module._FIRST_FETCH = module._FIRST_FETCH, first
    try:
        asked = [ask(**fields) for fields in drawn]
        for question, answer in zip(asked, Cascade(FILLED, SHELF).run(asked), strict=True):
            assert rows_of(answer) == brute_force(SHELF, question)
    finally:
        module._FIRST_FETCH = before


@settings(max_examples=60, deadline=None)
@given(questions, st.sampled_from(["comedy", "drama"]), st.integers(-3, 3))
def test_boosts_come_on_top(fields: dict, genre: str, add: int) -> None:
    asked = ask(**fields)
    rules = [Boost(where={"genre": genre}, times=1.5, add=add)]
    asked.boosts = boosts_of(SHELF.fields, rules)
    [answer] = Cascade(FILLED, SHELF).run([asked])
    assert rows_of(answer) == brute_force(SHELF, asked)


@settings(max_examples=60, deadline=None)
@given(questions, st.lists(rows, min_size=1, max_size=20, unique=True))
def test_rows_that_the_question_names_gain_as_well(fields: dict, named: list[int]) -> None:
    """By `include`, and as the caller's own candidates, which all come back."""
    asked = ask(**fields, include=named)
    [answer] = Cascade(FILLED, SHELF).run([asked])
    assert rows_of(answer) == brute_force(SHELF, asked, sorted(named))
    own = ask(len(named), fields["vector"], candidates=named, extra=fields["extra"])
    own.names = tuple(f"i{row}" for row in named)
    [answer] = Cascade(FILLED, SHELF).run([own])
    score = dict(zip(rows_of(answer), answer.scores, strict=True))
    whole = ask(60, fields["vector"], extra=fields["extra"])
    [everything] = Cascade(FILLED, SHELF).run([whole])
    told = dict(zip(rows_of(everything), everything.scores, strict=True))
    assert score == pytest.approx({row: told[row] for row in named}, rel=1e-5, abs=1e-5)


def test_sources_together_and_selectors_read_the_same_scores() -> None:
    """An item far down that is raised is found, whatever source offers it, and chosen first."""
    vector = [1.0, 0.5, -0.5, 0.25]
    [plain] = Cascade(FILLED, SHELF).run([ask(60, vector)])
    last = rows_of(plain)[-1]
    raised = ask(5, vector, history=[3], extra=extra_of({last: 400}))
    for config in (FILLED, TOGETHER, CascadeConfig(selectors=(MMRSelector(relevance=0.9),))):
        [answer] = Cascade(config, SHELF).run([raised])
        assert rows_of(answer)[0] == last
        assert answer.scores[0] == pytest.approx(plain.scores[-1] + 100, rel=1e-4)


def test_an_item_without_a_finite_vector_stays_out() -> None:
    vectors = np.random.default_rng(0).normal(size=(21, 4)).astype(np.float32)
    vectors[7], vectors[9] = np.nan, np.inf
    catalog = Catalog(Vocabulary([f"i{row}" for row in range(1, 21)]))
    shelf = Shelf(catalog, build(vectors, ExactConfig()), np.zeros(21, np.int64))
    asked = ask(20, [1.0, 0.5, -0.5, 0.25], extra=extra_of({7: 400, 9: 400, 3: 400}))
    [answer] = Cascade(FILLED, shelf).run([asked])
    assert rows_of(answer)[0] == 3
    assert not {7, 9} & set(rows_of(answer))
    assert len(answer.items) == 18
    assert np.isfinite(answer.scores).all()


def test_nothing_to_add_changes_nothing() -> None:
    vector = [1.0, 0.5, -0.5, 0.25]
    plain, nothing = ask(7, vector, seen=[4]), ask(7, vector, seen=[4], extra=extra_of({}))
    answers = Cascade(FILLED, SHELF).run([plain, nothing])
    assert answers[0].items == answers[1].items
    assert answers[0].scores == answers[1].scores
