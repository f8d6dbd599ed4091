"""Conditions and boosts against a reading of the rules item by item; filtered search against brute force."""

import math
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.cascade import cascade as module
from millirec.cascade import sources
from millirec.cascade.cascade import Cascade, CascadeConfig
from millirec.cascade.query import Asked, Shelf
from millirec.cascade.rules import Boost, Condition, Wanted, boosts_of, check_values, meets
from millirec.cascade.selectors import MMRSelector, QuotaSelector
from millirec.data.errors import QueryError
from millirec.index import ExactConfig, IndexConfig, PQConfig, ProductIndexConfig
from tests.shelves import GENRES, TAGS, ask, rows_of, shelf_of


def values_of(shelf: Shelf, name: str, row: int) -> set[str]:
    member = shelf.fields.of(name, np.array([row], np.int32))
    return {value for value, has in zip(member.values, member.has[0], strict=True) if has}


def met(shelf: Shelf, row: int, where: dict[str, Wanted]) -> bool:
    """The rules once more, for one item."""
    for name, wanted in where.items():
        if isinstance(wanted, str | tuple):
            if (
                not {wanted} & values_of(shelf, name, row)
                if isinstance(wanted, str)
                else not set(wanted) & values_of(shelf, name, row)
            ):
                return False
            continue
        if name == "price":
            price = math.nan if row % 5 == 0 else float(row)
            low = -math.inf if wanted.at_least is None else wanted.at_least
            high = math.inf if wanted.at_most is None else wanted.at_most
            if not low <= price <= high:
                return False
            continue
        values = values_of(shelf, name, row)
        if wanted.any_of is not None and not values & set(wanted.any_of):
            return False
        if not set(wanted.all_of) <= values or values & set(wanted.none_of):
            return False
    return True


def condition(values: tuple[str, ...]) -> st.SearchStrategy[Condition]:
    some = st.lists(st.sampled_from((*values, "nothing has this")), max_size=3).map(tuple)
    drawn = st.fixed_dictionaries({"any_of": st.none() | some, "all_of": some, "none_of": some})
    return drawn.map(_condition).filter(lambda found: found is not None)  # type: ignore[return-value]


def _condition(fields: dict) -> Condition | None:
    try:
        return Condition(**fields)
    except QueryError:
        return None


ranges = st.tuples(st.none() | st.integers(-5, 70), st.none() | st.integers(-5, 70)).filter(
    lambda ends: ends != (None, None) and (None in ends or ends[0] <= ends[1])
)
wheres = st.fixed_dictionaries(
    {},
    optional={
        "genre": st.sampled_from(GENRES) | st.lists(st.sampled_from(GENRES), max_size=2).map(tuple) | condition(GENRES),
        "tags": st.sampled_from(TAGS) | condition(TAGS),
        "price": ranges.map(lambda ends: Condition(at_least=ends[0], at_most=ends[1])),
    },
).filter(bool)


@settings(max_examples=150, deadline=None)
@given(wheres)
def test_conditions_are_met_as_they_say(where: dict[str, Wanted]) -> None:
    shelf = shelf_of(60)
    mask = meets(shelf.fields, where)
    assert (mask.shape, mask.dtype, bool(mask[0])) == ((61,), np.bool_, False)
    assert np.flatnonzero(mask).tolist() == [row for row in range(1, 61) if met(shelf, row, where)]


def test_conditions_by_hand() -> None:
    fields = shelf_of(10).fields  # genres of 1..10: drama war comedy drama war comedy - war comedy drama

    def rows(**where: Wanted) -> list[int]:
        return np.flatnonzero(meets(fields, where)).tolist()

    assert rows(genre=("war", "comedy")) == [2, 3, 5, 6, 8, 9]
    assert rows(genre=()) == []
    assert rows(genre=Condition(none_of=("war", "drama"))) == [3, 6, 7, 9]
    assert rows(price=Condition(at_least=3, at_most=8)) == [3, 4, 6, 7, 8]  # 5 has no price
    assert rows(price=Condition(at_most=8), genre="war") == [2, 8]
    fields.update(5, {"price": 4, "genre": "comedy", "available": True})
    assert rows(price=Condition(at_least=3, at_most=4)) == [3, 4, 5]
    assert rows(genre=("war",)) == [2, 8]
    fields.update(2, {"stock": 7.5})
    assert rows(stock=Condition(at_least=7.5)) == [2]


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"gnre": "war"}, "no feature 'gnre' with values"),
        ({"price": "3"}, "no feature 'price' with values"),
        ({"genre": Condition(at_least=1)}, "no feature 'genre' with numbers to compare.*'price'"),
        ({"gnre": Condition(none_of=("war",))}, "no feature 'gnre'"),
    ],
)
def test_unknown_features_are_named(where: dict[str, Wanted], says: str) -> None:
    with pytest.raises(QueryError, match=says):
        meets(shelf_of(9).fields, where)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Condition(), "asks for nothing"),
        (lambda: Condition(all_of=("a", "b"), none_of=("b",)), "'b' is asked for and in none_of"),
        (lambda: Condition(any_of=("a",), none_of=("a", "c")), "'a' is asked for"),
        (lambda: Condition(at_least=3, at_most=2), "at_least = 3 is above at_most = 2"),
        (lambda: Condition(at_least=math.inf), "no finite number"),
        (lambda: Boost(where={}, times=2), "`where` is empty"),
        (lambda: Boost(where={"genre": "war"}), "changes nothing"),
        (lambda: Boost(where={"genre": "war"}, times=0), "times = 0"),
        (lambda: Boost(where={"genre": "war"}, add=math.nan), "add = nan"),
        (lambda: check_values({"genre": ("x",) * 101}), "101 values"),
        (lambda: boosts_of(shelf_of(3).fields, [Boost(where={"genre": "war"}, times=2)] * 9), "9 boosts, at most 8"),
    ],
)
def test_contradictions_and_bad_numbers_are_refused(make: object, says: str) -> None:
    with pytest.raises(QueryError, match=says):
        make()  # type: ignore[operator]


boosts = st.lists(
    st.builds(
        Boost,
        where=wheres,
        times=st.sampled_from([0.25, 0.5, 2.0, 4.0]),
        add=st.sampled_from([-3.0, 0.0, 2.0]),
    ),
    min_size=1,
    max_size=3,
)


def boosted(shelf: Shelf, row: int, score: float, asked: list[Boost]) -> float:
    mine = [boost for boost in asked if met(shelf, row, boost.where)]
    times = math.prod(boost.times for boost in mine)
    return (score * times if score >= 0 else score / times) + sum(boost.add for boost in mine)


def brute_force(shelf: Shelf, asked: Asked, rules: list[Boost]) -> list[float]:
    """The k best boosted scores of what passes the filters."""
    rows = [r for r in range(1, shelf.n_items + 1) if r not in asked.seen and (asked.where is None or asked.where[r])]
    if asked.vector is None:
        scores = shelf.popularity[rows].tolist()
    else:
        scores = (shelf.index.vectors(np.array(rows, np.int32)) @ asked.vector).tolist() if rows else []
    return sorted((boosted(shelf, r, s, rules) for r, s in zip(rows, scores, strict=True)), reverse=True)[: asked.k]


@settings(max_examples=150, deadline=None)
@given(
    boosts,
    st.integers(1, 30),
    st.booleans(),
    st.lists(st.integers(1, 60), max_size=20),
    st.none() | wheres,
    st.sampled_from([0, 20, 2_000]),
    st.sampled_from([1, 1_024]),
)
def test_boosts_count_for_the_whole_catalogue(
    rules: list[Boost], k: int, cold: bool, seen: list[int], where: dict | None, at_once: int, first: int
) -> None:
    """However candidates are found: groups searched or scored, little or much fetched at first."""
    shelf = shelf_of(60)
    asked = ask(k, None if cold else [1.0, -0.5, 0.25, 0.75], seen=seen)
    asked.where = None if where is None else meets(shelf.fields, where)
    asked.boosts = boosts_of(shelf.fields, rules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "SCORE_AT_ONCE", at_once)
        patch.setattr(module, "_FIRST_FETCH", first)
        answer = Cascade(CascadeConfig(), shelf).run([asked])[0]
    assert len(set(answer.items)) == len(answer.items)
    assert list(answer.scores) == pytest.approx(brute_force(shelf, asked, rules), rel=1e-5, abs=1e-5)
    for row in rows_of(answer):
        assert row not in seen
        assert asked.where is None or asked.where[row]


def test_the_last_item_of_a_large_catalogue_can_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SCORE_AT_ONCE", 5)
    shelf = shelf_of(20_000)
    vector = [1.0, -0.5, 0.25, 0.75]
    plain = Cascade(CascadeConfig(), shelf).run([ask(20_000, vector)])[0]
    last = plain.items[-1]
    shelf.fields.update(int(last[1:]), {"label": "sponsored"})
    asked = ask(3, vector)
    asked.boosts = boosts_of(shelf.fields, [Boost(where={"label": "sponsored"}, add=1e3)])
    answer = Cascade(CascadeConfig(), shelf).run([asked])[0]
    assert answer.items == (last, *plain.items[:2])
    assert answer.scores[0] == pytest.approx(plain.scores[-1] + 1e3, rel=1e-5)
    fetched = [stage.n_out for stage in answer.trace if stage.name == "sequence"]
    assert len(fetched) == 1
    assert fetched[0] < 20  # the rest of the catalogue is not touched
    for before, after in pairwise(answer.trace[-2:]):
        assert before.n_out == after.n_in


def test_selectors_choose_by_boosted_scores() -> None:
    shelf = shelf_of(60)
    for selectors in ((MMRSelector(relevance=1.0),), (QuotaSelector(feature="tags", least={"old": 1}),)):
        asked = ask(5, [1.0, -0.5, 0.25, 0.75])
        rules = [Boost(where={"genre": "war"}, times=3.0, add=1.0)]
        asked.boosts = boosts_of(shelf.fields, rules)
        answer = Cascade(CascadeConfig(selectors=selectors), shelf).run([asked])[0]
        assert answer.scores[0] == pytest.approx(brute_force(shelf, asked, rules)[0])


def test_the_callers_own_candidates_are_boosted_too() -> None:
    shelf = shelf_of(20)
    asked = ask(3, [1.0, 0, 0, 0], candidates=[1, 2, 3, 0])
    asked.names = ("i1", "i2", "i3", "?")
    asked.boosts = boosts_of(shelf.fields, [Boost(where={"genre": "comedy"}, add=100)])
    answer = Cascade(CascadeConfig(), shelf).run([asked])[0]
    assert answer.items[0] == "i3"
    assert answer.scores[-1] == -np.inf


EXACT = [ExactConfig(), ProductIndexConfig(codes=8, bits=8), ProductIndexConfig(codes=8, bits=4)]


def picky(n: int, share: float) -> np.ndarray:
    """A random mask that keeps so much of the catalogue."""
    where = np.zeros(n + 1, np.bool_)
    where[1 + np.random.default_rng(1).permutation(n)[: max(1, int(share * n))]] = True
    return where


@pytest.mark.parametrize("share", [0.001, 0.01, 0.5])
@pytest.mark.parametrize("index", EXACT, ids=["exact", "product-8", "product-4"])
def test_filtered_search_is_exact(index: IndexConfig, share: float) -> None:
    """Product codes propose approximately, and prove what they answer."""
    shelf = shelf_of_levels(20_000, index)
    rng = np.random.default_rng(2)
    for where in (picky(20_000, share), np.arange(20_001) > 20_000 * (1 - share)):
        for k in (1, 15, 100):
            vector = rng.normal(size=8).tolist()
            answer = Cascade(CascadeConfig(), shelf).run([ask(k, vector, where=where)])[0]
            rows = np.flatnonzero(where).astype(np.int32)
            scores = np.sort(shelf.index.vectors(rows) @ np.array(vector, np.float32))[::-1][:k]
            assert len(answer.items) == min(k, len(rows))
            assert all(where[row] for row in rows_of(answer))
            np.testing.assert_allclose(answer.scores, scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.5])
@pytest.mark.parametrize("config", [PQConfig(codes=4), PQConfig(lists=100, probes=10)], ids=["pq", "inverted-file"])
def test_filtered_approximate_search_still_finds_k(config: IndexConfig, share: float) -> None:
    shelf = shelf_of_levels(20_000, config)
    rng = np.random.default_rng(3)
    shares = []
    for _ in range(10):
        vector = rng.normal(size=8).tolist()
        where = picky(20_000, share)
        answer = Cascade(CascadeConfig(), shelf).run([ask(20, vector, where=where)])[0]
        rows = np.flatnonzero(where).astype(np.int32)
        best = rows[np.argsort(-(shelf.index.vectors(rows) @ np.array(vector, np.float32)), kind="stable")[:20]]
        assert len(set(answer.items)) == min(20, len(rows))
        assert all(where[row] for row in rows_of(answer))
        shares.append(np.isin(best, rows_of(answer)).mean())
    assert np.mean(shares) > (0.99 if share < 0.1 else 0.7)  # few items are scored one by one; many are searched


def shelf_of_levels(n: int, index: IndexConfig) -> Shelf:
    """Vectors that few sub-vectors make up: what a product index holds."""
    rng = np.random.default_rng(0)
    levels = rng.normal(size=(16, 8)).astype(np.float32)
    vectors = np.take_along_axis(levels, rng.integers(0, 16, (n + 1, 8)), axis=0)
    base = shelf_of(n, dim=1)
    from millirec.index import build

    return Shelf(base.catalog, build(vectors, index), np.arange(n + 1))


def test_rules_survive_json() -> None:
    text = '{"where": {"genre": ["war"], "price": {"at_least": 3}}, "times": 2}'
    boost = msgspec.json.decode(text, type=Boost)
    assert boost == Boost(where={"genre": ("war",), "price": Condition(at_least=3)}, times=2)
    assert msgspec.json.decode(msgspec.json.encode(boost), type=Boost) == boost
