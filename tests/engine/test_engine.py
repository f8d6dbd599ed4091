"""One engine in one process: what it answers, and that online equals offline."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millirec.bundle import Bundle
from millirec.cascade.query import Query, Ranking
from millirec.data.encode import encode
from millirec.data.errors import ArtifactError, ConfigError, MillirecError, NotFoundError, QueryError
from millirec.data.event import Event, ItemUpdate
from millirec.data.history import History, HistoryLimits
from millirec.engine.engine import Engine
from millirec.engine.settings import EngineSettings
from millirec.engine.state import StateStore, StoreSettings
from millirec.models.base import Inputs
from millirec.models.checkpoint import Checkpoint
from tests.bundles import GENRES


def event(user: str, item: str, time: int = 0) -> Event:
    return Event(user=user, item=item, time=time)


def ids(*numbers: int) -> tuple[str, ...]:
    return tuple(f"i{number}" for number in numbers)


EVERYTHING = ids(*range(1, 61))


def torch_scores(checkpoint: Checkpoint, rows: list[int]) -> np.ndarray:
    """Scores of the whole catalogue from the network itself, as training computes them."""
    network = checkpoint.network()
    batch = encode([np.array(rows, np.int32)], None, 20)
    with torch.inference_mode():
        return (network.user_vectors(Inputs.of(batch)) @ network.item_vectors().T)[0].numpy()


def assert_best(ranking: Ranking, scores: np.ndarray, barred: set[int], k: int) -> None:
    """`ranking` is the top k of `scores` without `barred` rows, up to the rounding of two runtimes."""
    rows = [int(item[1:]) for item in ranking.items]
    allowed = [row for row in range(1, len(scores)) if row not in barred]
    assert len(set(rows)) == min(k, len(allowed))
    assert not set(rows) & barred
    np.testing.assert_allclose(ranking.scores, scores[rows], atol=1e-5)
    np.testing.assert_allclose(ranking.scores, np.sort(scores[allowed])[::-1][:k], atol=1e-5)


def test_an_event_changes_the_next_answer(engine: Engine, checkpoint: Checkpoint) -> None:
    assert engine.recommend(Query(user="ann")).source == "popular"
    engine.observe(event("ann", "i7", 1))
    first = engine.recommend(Query(user="ann"))
    assert_best(first, torch_scores(checkpoint, [7]), {7}, 10)
    engine.observe(event("ann", "i9", 2))
    second = engine.recommend(Query(user="ann"))
    assert_best(second, torch_scores(checkpoint, [7, 9]), {7, 9}, 10)
    assert first.scores != second.scores


streams = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 63), st.integers(0, 9)), max_size=60)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(streams, st.integers(1, 70))
def test_a_stream_of_events_online_equals_the_reducer_offline(
    bundle: Bundle, checkpoint: Checkpoint, stream: list[tuple[str, int, int]], k: int
) -> None:
    """Items 61..63 are unknown to the bundle: they are kept, and change nothing."""
    limits = HistoryLimits(window=25, seen=30)
    engine = Engine(bundle, StateStore.temporary(StoreSettings(limits=limits)))
    offline = {name: History() for name in "abc"}
    for user, item, time in stream:
        engine.observe(event(user, f"i{item}", time))
        offline[user].append(item, time, limits)
    answers = engine.recommend_many([Query(user=name, k=k) for name in "abc"])
    for name, answer in zip("abc", answers, strict=True):
        assert isinstance(answer, Ranking)
        known = [int(row) for row in offline[name].items if row <= 60]
        seen = {int(row) for row in offline[name].seen}
        if known:
            assert answer.source == "sequence"
            assert_best(answer, torch_scores(checkpoint, known), seen, k)
        else:
            assert answer.source == "popular"
            assert answer.items == tuple(i for i in EVERYTHING if int(i[1:]) not in seen)[:k]
    engine.close()


def test_a_history_in_the_call_equals_a_stored_one(engine: Engine) -> None:
    for time, item in enumerate(ids(5, 6, 7)):
        engine.observe(event("ann", item, time))
        engine.observe(Event(session="s1", item=item, time=time))
    stored = engine.recommend(Query(user="ann"))
    for query in (Query(session="s1"), Query(items=ids(5, 6, 7)), Query(user="bob", items=("?", *ids(5, 6, 7)))):
        answer = engine.recommend(query)
        assert (answer.items, answer.scores) == (stored.items, stored.scores)


@pytest.mark.parametrize(
    "query",
    [Query(), Query(user="nobody"), Query(session="new"), Query(items=()), Query(items=("?", "??")), Query(user="")],
)
def test_an_empty_history_gets_what_is_popular(engine: Engine, query: Query) -> None:
    answer = engine.recommend(query)
    assert answer.source == "popular"
    assert answer.items == ids(*range(1, 11))
    assert answer.scores == tuple(float(60 - n) for n in range(1, 11))


def test_k_beyond_the_catalogue_gives_all_of_it(engine: Engine) -> None:
    assert set(engine.recommend(Query(items=ids(3), k=1_000)).items) == set(EVERYTHING) - {"i3"}
    assert set(engine.recommend(Query(items=ids(3), k=60, keep_seen=True)).items) == set(EVERYTHING)


def test_a_user_who_has_seen_everything_gets_an_empty_list(engine: Engine) -> None:
    engine.submit([event("ann", item, n) for n, item in enumerate(EVERYTHING)]).result()
    assert engine.recommend(Query(user="ann")).items == ()
    assert len(engine.recommend(Query(user="ann", keep_seen=True)).items) == 10


def test_what_left_the_window_is_still_seen(bundle: Bundle, checkpoint: Checkpoint) -> None:
    store = StateStore.temporary(StoreSettings(limits=HistoryLimits(window=20)))
    engine = Engine(bundle, store)
    engine.submit([event("ann", f"i{n}", n) for n in range(1, 41)]).result()
    answer = engine.recommend(Query(user="ann", k=60))
    assert_best(answer, torch_scores(checkpoint, list(range(21, 41))), set(range(1, 41)), 60)
    engine.close()


def test_the_filters_of_a_question(engine: Engine) -> None:
    base = Query(items=ids(1, 2), k=60)
    ranked = engine.recommend(base).items
    narrow = engine.recommend(Query(items=ids(1, 2), k=60, exclude=("i10", "?"), include=(*ids(9, 10, 1, 30), "??")))
    assert narrow.items == tuple(item for item in ranked if item in ("i9", "i30"))
    war = engine.recommend(Query(items=ids(1, 2), k=60, where={"genre": "war"}))
    assert war.items == tuple(item for item in ranked if GENRES[int(item[1:]) % 3] == "war")
    assert engine.recommend(Query(items=ids(1), where={"genre": "opera"})).items == ()
    assert engine.recommend(Query(items=ids(1), include=())).items == ()
    assert engine.recommend(Query(where={"genre": "comedy"}, k=2)).items == ("i3", "i6")


def test_candidates_are_ranked_whole(engine: Engine) -> None:
    engine.observe(event("ann", "i4"))
    query = Query(user="ann", k=1, candidates=("?", "i4", "i5", "??", "i6"), exclude=("??", "i6"))
    answer = engine.recommend(query)
    assert set(answer.items[:2]) == {"i4", "i5"}
    assert answer.items[2:] == ("?",)
    assert answer.scores[2] == -np.inf
    whole = engine.recommend(Query(user="ann", k=60, keep_seen=True))
    expected = dict(zip(whole.items, whole.scores, strict=True))
    assert answer.scores[:2] == pytest.approx([expected[item] for item in answer.items[:2]], abs=1e-6)
    assert engine.recommend(Query(candidates=("i9", "i2"))).items == ("i2", "i9")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (Query(k=0), "k = 0"),
        (Query(k=51), "k = 51"),
        (Query(items=("x",) * 101), "items: 101 ids"),
        (Query(exclude=("x",) * 101), "exclude: 101 ids"),
        (Query(include=("x",) * 101), "include: 101 ids"),
        (Query(candidates=("x",) * 101), "candidates: 101 ids"),
        (Query(where={"colour": "red"}), "no feature 'colour'"),
    ],
)
def test_a_question_that_cannot_be_answered_does_not_spoil_the_others(bundle: Bundle, query: Query, says: str) -> None:
    engine = Engine(bundle, StateStore.temporary(), EngineSettings(max_k=50, max_items=100))
    first, wrong, last = engine.recommend_many([Query(items=ids(1)), query, Query()])
    assert isinstance(wrong, QueryError)
    assert says in str(wrong)
    assert isinstance(first, Ranking)
    assert isinstance(last, Ranking)
    with pytest.raises(QueryError):
        engine.recommend(query)
    assert engine.recommend_many([]) == []
    engine.close()


def test_a_damaged_state_spoils_only_its_own_answer(engine: Engine) -> None:
    engine.observe(event("ann", "i1"))
    with engine.store._env.begin(write=True) as txn:
        txn.put(b"u:bob", b"\0" * 8 + b"\x09" * 20, db=engine.store._tables["state"])
    good, bad = engine.recommend_many([Query(user="ann"), Query(user="bob")])
    assert isinstance(good, Ranking)
    assert isinstance(bad, ArtifactError)


def test_an_item_goes_down_and_comes_back(engine: Engine) -> None:
    best = engine.recommend(Query(items=ids(1), k=3)).items
    engine.observe(ItemUpdate(item=best[0], time=1, fields={"available": False}))
    engine.observe(ItemUpdate(item="unheard-of", time=1, fields={"available": False}))
    assert engine.recommend(Query(items=ids(1), k=2)).items == best[1:]
    assert best[0] not in engine.recommend(Query(include=best)).items
    assert best[0] not in engine.similar("i1", 59).items
    assert best[0] in engine.recommend(Query(candidates=best)).items
    engine.observe(ItemUpdate(item=best[0], time=2, fields={"genre": "war"}))
    assert best[0] not in engine.recommend(Query(items=ids(1), k=60)).items
    engine.observe(ItemUpdate(item=best[0], time=3, fields={"available": True}))
    assert engine.recommend(Query(items=ids(1), k=3)).items == best


def test_newer_fields_override_the_catalogue(engine: Engine) -> None:
    assert "i3" in engine.recommend(Query(k=60, where={"genre": "comedy"})).items
    engine.observe(ItemUpdate(item="i3", time=1, fields={"genre": ["war", "drama"], "price": 3.0}))
    assert "i3" not in engine.recommend(Query(k=60, where={"genre": "comedy"})).items
    for genre in ("war", "drama"):
        assert "i3" in engine.recommend(Query(k=60, where={"genre": genre})).items
    engine.observe(ItemUpdate(item="i5", time=2, fields={"colour": "red"}))
    assert engine.recommend(Query(where={"colour": "red"})).items == ("i5",)
    assert engine.recommend(Query(where={"colour": "red", "genre": "war"})).items == ("i5",)
    assert engine.recommend(Query(where={"colour": "red", "genre": "drama"})).items == ()


def test_similar_items_by_cosine(engine: Engine, checkpoint: Checkpoint) -> None:
    vectors = checkpoint.network().item_vectors().detach().numpy()
    unit = vectors[1:] / np.linalg.norm(vectors[1:], axis=1, keepdims=True)
    cosines = unit @ unit[6]
    order = [n for n in np.argsort(-cosines) if n != 6]
    answer = engine.similar("i7", 5)
    assert answer.items == tuple(f"i{n + 1}" for n in order[:5])
    np.testing.assert_allclose(answer.scores, cosines[order[:5]], atol=1e-5)
    assert len(engine.similar("i7", 1_000).items) == 59
    with pytest.raises(NotFoundError, match="'nope'"):
        engine.similar("nope", 5)
    with pytest.raises(QueryError, match="k = 0"):
        engine.similar("i7", 0)


def test_a_batch_answers_as_one_by_one(engine: Engine) -> None:
    rng = np.random.default_rng(0)
    records = [event(f"u{n}", f"i{rng.integers(1, 61)}", t) for n in range(30) for t in range(n)]
    engine.submit(records).result()
    queries = [Query(user=f"u{n}", k=5) for n in rng.permutation(30)]
    for query, batched in zip(queries, engine.recommend_many(queries), strict=True):
        alone = engine.recommend(query)
        assert isinstance(batched, Ranking)
        assert batched.items == alone.items
        np.testing.assert_allclose(batched.scores, alone.scores, atol=1e-5)
        assert [stage.name for stage in batched.trace[:3]] == [s.name for s in alone.trace[:3]]


def test_several_threads_ask_and_observe_at_once(engine: Engine) -> None:
    expected = {n: engine.recommend(Query(items=ids(n))) for n in range(1, 20)}
    failures: list[MillirecError | str] = []

    def work(user: int) -> None:
        for n in range(1, 20):
            engine.observe(event(f"u{user}", f"i{n}", n))
            answer = engine.recommend(Query(items=ids(n)))
            if (answer.items, answer.scores) != (expected[n].items, expected[n].scores):
                failures.append(f"{user} {n}")
            if {f"i{m}" for m in range(1, n + 1)} & set(engine.recommend(Query(user=f"u{user}", k=60)).items):
                failures.append(f"seen {user} {n}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert not failures


def test_swap_changes_model_and_vocabulary_and_keeps_histories(engine: Engine, newer: Bundle) -> None:
    """`new1` was unknown when it was seen; after the swap the same stored event counts."""
    engine.observe(event("ann", "new1", 1))
    engine.observe(event("ann", "i1", 2))
    engine.observe(ItemUpdate(item="new2", time=3, fields={"available": False}))
    before = engine.recommend(Query(user="ann", k=60))
    assert not {"new1", "new2"} & set(before.items)
    assert (before.items, before.scores) == _answer(engine, ids(1))
    engine.swap(newer)
    assert engine.bundle is newer
    after = engine.recommend(Query(user="ann", k=60))
    assert (after.items, after.scores) == _answer(engine, ("new1",))
    assert set(after.items) == set(newer.catalog.vocabulary.ids) - {"new1", "new2"}
    engine.observe(event("ann", "brand-new", 4))
    assert engine.recommend(Query(user="ann", k=60)).scores == after.scores
    with pytest.raises(QueryError, match="no feature"):
        engine.recommend(Query(where={"genre": "war"}))


def _answer(engine: Engine, items: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    answer = engine.recommend(Query(items=items, k=60))
    return answer.items, answer.scores


def test_swap_under_way_gives_whole_answers_of_one_bundle(engine: Engine, bundle: Bundle, newer: Bundle) -> None:
    engine.submit([event("ann", item, n) for n, item in enumerate(ids(10, 11, 12))]).result()
    query = Query(user="ann", k=60)
    expected = {}
    for one in (bundle, newer):
        engine.swap(one)
        answer = engine.recommend(query)
        expected[answer.items] = answer.scores
    assert len(expected) == 2
    stop, wrong, met = threading.Event(), [], set()

    def ask() -> None:
        while not stop.is_set():
            for answer in engine.recommend_many([query, query]):
                met.add(answer.items)
                if expected.get(answer.items) != pytest.approx(answer.scores, abs=1e-6):
                    wrong.append(answer)

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(ask) for _ in range(3)]
        for n in range(20):
            engine.swap((bundle, newer)[n % 2])
        stop.set()
        for future in futures:
            future.result()
    assert not wrong
    assert met == set(expected)


def test_a_bundle_that_was_swapped_out_leaves_memory_at_once(engine: Engine, newer: Bundle) -> None:
    """Without the collector: what a server holds at its start is kept from it, so a cycle would stay for ever."""
    gc.disable()
    try:
        engine.recommend(Query(items=ids(1, 2), deadline_ms=60_000))
        old = weakref.ref(engine._loaded)
        engine.swap(newer)
        assert old() is None
    finally:
        gc.enable()


def test_a_window_shorter_than_the_model_reads_is_refused(bundle: Bundle) -> None:
    store = StateStore.temporary(StoreSettings(limits=HistoryLimits(window=19)))
    with pytest.raises(ConfigError, match=r"window = 19 .* \(20\)"):
        Engine(bundle, store)
    store.close()


def test_a_deadline_is_kept_by_what_there_is_time_for(engine: Engine) -> None:
    usual = engine.recommend(Query(items=ids(1, 2)))
    assert usual.stage is None
    patient = engine.recommend(Query(items=ids(1, 2), deadline_ms=60_000))
    assert (patient.items, patient.scores, patient.stage) == (usual.items, usual.scores, "full")
    late = engine.recommend(Query(items=ids(1, 2), due=0.0, deadline_ms=1))
    assert (late.items, late.stage, late.source) == (ids(*range(3, 13)), "popular", "popular")
    ranked = engine.recommend(Query(items=ids(1), candidates=ids(9, 4), due=0.0, deadline_ms=1))
    assert (ranked.items, ranked.stage) == (ids(4, 9), "popular")
    both = engine.recommend_many([Query(items=ids(1, 2), due=0.0, deadline_ms=1), Query(items=ids(1, 2))])
    assert [answer.stage for answer in both if isinstance(answer, Ranking)] == ["popular", None]
    assert isinstance(both[1], Ranking)
    assert both[1].items == usual.items
