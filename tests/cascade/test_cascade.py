"""The cascade against brute force: score everything, strike out what is barred, sort."""

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.cascade import cascade as module
from millirec.cascade import sources
from millirec.cascade.cascade import Cascade, CascadeConfig
from millirec.cascade.filters import ExcludeFilter
from millirec.cascade.query import Asked, Ranking, Shelf, Stage
from millirec.cascade.sources import PopularSource, SequenceSource
from millirec.data.catalog import Catalog, Vocabulary
from millirec.data.errors import ConfigError
from millirec.index import ExactConfig, PQConfig, build

NONE = np.empty(0, np.int32)


def shelf_of(n: int, dim: int = 4, seed: int = 0, index: ExactConfig | PQConfig | None = None) -> Shelf:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n + 1, dim)).astype(np.float32)
    popularity = np.concatenate([[0], rng.integers(0, 5, n)])
    catalog = Catalog(Vocabulary([f"i{row}" for row in range(1, n + 1)]))
    return Shelf(catalog, build(vectors, index or ExactConfig()), popularity)


def ask(k: int = 5, vector: list[float] | None = None, **fields: object) -> Asked:
    arrays = {name: np.array(value, np.int32) for name, value in fields.items() if isinstance(value, list)}
    fields = {"seen": NONE, "exclude": NONE, **fields, **arrays}
    return Asked(k, None if vector is None else np.array(vector, np.float32), **fields)  # type: ignore[arg-type]


def rows_of(ranking: Ranking) -> list[int]:
    return [int(item[1:]) for item in ranking.items]


def brute_force(shelf: Shelf, asked: Asked) -> list[int]:
    """Rows of the answer, one at a time: an independent and slow reading of the rules."""
    allowed = []
    for row in range(1, shelf.n_items + 1):
        barred = row in asked.seen or row in asked.exclude
        barred |= asked.include is not None and row not in asked.include
        barred |= asked.where is not None and not asked.where[row]
        barred |= asked.available is not None and not asked.available[row]
        if not barred:
            allowed.append(row)
    if asked.vector is None:
        score = {row: float(shelf.popularity[row]) for row in allowed}
    else:
        vectors = shelf.index.vectors(np.array(allowed, np.int32)) if allowed else []
        score = {row: float(v @ asked.vector) for row, v in zip(allowed, vectors, strict=True)}
    return sorted(allowed, key=lambda row: (-score[row], row))[: asked.k]


def test_the_best_unseen_items_come_back() -> None:
    vectors = np.array([[9], [1], [2], [3], [4]], np.float32)
    shelf = Shelf(Catalog(Vocabulary(list("abcd"))), build(vectors, ExactConfig()), np.array([0, 4, 3, 2, 1]))
    ranking = Cascade(CascadeConfig(), shelf).run([ask(2, [2.0], seen=[4], exclude=[2])])[0]
    assert ranking.items == ("c", "a")
    assert ranking.scores == (6.0, 2.0)
    assert ranking.source == "sequence"


def test_an_empty_history_gets_what_is_popular_ties_by_row() -> None:
    vectors = np.ones((6, 1), np.float32)
    shelf = Shelf(Catalog(Vocabulary(list("abcde"))), build(vectors, ExactConfig()), np.array([9, 1, 7, 7, 0, 8]))
    ranking = Cascade(CascadeConfig(), shelf).run([ask(4, exclude=[5])])[0]
    assert ranking.items == ("b", "c", "a", "d")
    assert ranking.scores == (7.0, 7.0, 1.0, 0.0)
    assert ranking.source == "popular"


def test_the_trace_counts_what_goes_in_and_out() -> None:
    shelf = shelf_of(50)
    asked = ask(5, [1, 1, 1, 1], seen=list(range(1, 21)))
    asked.before = (Stage("state", 20, 20, 1.0),)
    trace = Cascade(CascadeConfig(), shelf).run([asked])[0].trace
    names = [stage.name for stage in trace]
    assert names == ["state", "sequence", "seen", "inner-product", "top-k"]  # the other filters had nothing to do
    for before, after in pairwise(trace[1:]):
        assert before.n_out == after.n_in
    assert trace[1].n_in == 50
    assert trace[1].n_out == 25  # k and what the filters may remove
    assert trace[-1].n_out == 5
    assert all(stage.microseconds >= 0 for stage in trace)


rows = st.lists(st.integers(0, 60), max_size=60)
masks = st.none() | st.lists(st.booleans(), min_size=61, max_size=61)
questions = st.fixed_dictionaries(
    {
        "k": st.integers(1, 70),
        "cold": st.booleans(),
        "seen": rows,
        "exclude": rows,
        "include": st.none() | rows,
        "where": masks,
        "available": masks,
        "seed": st.integers(0, 5),
    }
)


@settings(max_examples=150, deadline=None)
@given(st.lists(questions, min_size=1, max_size=5), st.sampled_from([0, 2_000]), st.sampled_from([1, 1_024]))
def test_filtered_answers_equal_brute_force(drawn: list[dict], at_once: int, first: int) -> None:
    """On every path: direct scoring, one search, several searches; alone and in a batch."""
    shelf = shelf_of(60)
    asked = []
    for one in drawn:
        vector = None if one["cold"] else np.random.default_rng(one["seed"]).normal(size=4).tolist()
        fields = {name: one[name] for name in ("seen", "exclude", "include")}
        for name in ("where", "available"):
            fields[name] = None if one[name] is None else np.array(one[name])
        asked.append(ask(one["k"], vector, **fields))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "SCORE_AT_ONCE", at_once)
        patch.setattr(module, "_FIRST_FETCH", first)
        rankings = Cascade(CascadeConfig(), shelf).run(asked)
    for question, ranking in zip(asked, rankings, strict=True):
        assert rows_of(ranking) == brute_force(shelf, question)
        assert list(ranking.scores) == sorted(ranking.scores, reverse=True)
        assert np.isfinite(ranking.scores).all()


def test_a_feature_of_most_items_is_searched_and_of_few_is_scored_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SCORE_AT_ONCE", 0)
    shelf = shelf_of(200)
    where = np.zeros(201, bool)
    where[1:150] = True
    wide = Cascade(CascadeConfig(), shelf).run([ask(5, [1, 0, 0, 0], where=where)])[0]
    assert wide.trace[0].name == "sequence"
    few = np.zeros(201, bool)
    few[[7, 9]] = True
    direct = Cascade(CascadeConfig(), shelf).run([ask(5, [1, 0, 0, 0], where=few)])[0]
    assert direct.trace[0].name == "pool"
    assert sorted(rows_of(direct)) == [7, 9]


def test_a_user_who_has_seen_everything_gets_nothing() -> None:
    shelf = shelf_of(30)
    everything = list(range(1, 31))
    answers = Cascade(CascadeConfig(), shelf).run([ask(5, [1, 0, 0, 0], seen=everything), ask(5, seen=everything)])
    assert [answer.items for answer in answers] == [(), ()]


def test_an_approximate_index_that_runs_short_is_filled_from_the_popular_ones() -> None:
    shelf = shelf_of(400, dim=8, index=PQConfig(lists=40, probes=1))
    vector = [1.0, -1, 0, 1, 0, 0, 1, 0]
    found = shelf.index.search(np.array([vector], np.float32), 100).rows[0]
    assert 0 < (found > 0).sum() < 100
    ranking = Cascade(CascadeConfig(), shelf).run([ask(100, vector, seen=[1, 2, 3])])[0]
    assert len(set(ranking.items)) == 100
    assert not {"i1", "i2", "i3"} & set(ranking.items)
    assert list(ranking.scores) == sorted(ranking.scores, reverse=True)
    exact = shelf.index.scores(np.array([vector], np.float32), np.array([rows_of(ranking)], np.int32))[0]
    np.testing.assert_allclose(ranking.scores, exact, atol=1e-3)


def test_items_without_a_finite_vector_are_never_recommended() -> None:
    vectors = np.array([[0], [1], [np.nan], [3], [np.inf]], np.float32)
    shelf = Shelf(Catalog(Vocabulary(list("abcd"))), build(vectors, ExactConfig()), np.arange(5))
    cascade = Cascade(CascadeConfig(), shelf)
    assert cascade.run([ask(4, [1.0])])[0].items == ("c", "a")
    assert cascade.run([ask(4, [1.0], include=[1, 2, 3, 4])])[0].items == ("c", "a")
    assert cascade.run([ask(4)])[0].items == ("d", "c", "b", "a")


def test_ranking_keeps_all_candidates_unknown_ones_last() -> None:
    vectors = np.array([[9], [1], [np.nan], [3]], np.float32)
    shelf = Shelf(Catalog(Vocabulary(list("abc"))), build(vectors, ExactConfig()), np.array([0, 5, 6, 7]))
    asked = ask(1, [1.0], seen=[3], candidates=[0, 1, 2, 3, 1])
    asked.names = ("?", "a", "b", "c", "a")
    ranking = Cascade(CascadeConfig(), shelf).run([asked])[0]
    assert ranking.items == ("c", "a", "a", "?", "b")
    assert ranking.scores == (3.0, 1.0, 1.0, -np.inf, -np.inf)
    asked.vector = None
    cold = Cascade(CascadeConfig(), shelf).run([asked])[0]
    assert cold.items == ("c", "b", "a", "a", "?")
    assert cold.source == "popular"
    asked.candidates, asked.names = NONE, ()
    assert Cascade(CascadeConfig(), shelf).run([asked])[0].items == ()


def test_stages_are_what_the_config_declares() -> None:
    shelf = shelf_of(20)
    seen = ask(20, [1, 0, 0, 0], seen=[1, 2, 3])
    lenient = Cascade(CascadeConfig(filters=(ExcludeFilter(),)), shelf).run([seen])[0]
    assert len(lenient.items) == 20
    popular = CascadeConfig(sources=(PopularSource(),), scorers=())
    assert not Cascade(popular, shelf).wants_vector
    only = CascadeConfig(sources=(SequenceSource(),))
    assert Cascade(only, shelf).run([ask(5)])[0].items == ()
    first = CascadeConfig(sources=(PopularSource(), SequenceSource()))
    ranking = Cascade(first, shelf).run([ask(3, [1, 0, 0, 0])])[0]
    assert set(rows_of(ranking)) == set(shelf.popular[:3].tolist())


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"sources": []}', r"\$\.cascade\.sources is empty"),
        ('{"selectors": []}', r"\$\.cascade\.selectors is empty"),
        ('{"filters": [{"kind": "seen"}, {"kind": "seen"}]}', r"\$\.cascade\.filters names one kind twice"),
    ],
)
def test_a_config_that_cannot_work_is_refused(text: str, path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        msgspec.json.decode(text, type=CascadeConfig)


def test_a_config_survives_json() -> None:
    config = CascadeConfig(sources=(PopularSource(),))
    assert msgspec.json.decode(msgspec.json.encode(config), type=CascadeConfig) == config
    with pytest.raises(msgspec.ValidationError, match=r"\$\.sources\[0\]"):
        msgspec.json.decode('{"sources": [{"kind": "popluar"}]}', type=CascadeConfig)
