"""What every state store keeps: the durable one and the temporary one of a replay."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millirec.data.errors import DataError, UnavailableError
from millirec.data.event import Event, ItemUpdate, Record, UserUpdate, state_key
from millirec.data.history import History, HistoryLimits
from millirec.engine.state import StateStore, StoreSettings

Open = Callable[..., StateStore]


@pytest.fixture(params=["durable", "temporary"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens stores of one kind; closes them at the end."""
    stores: list[StateStore] = []

    def make(**options: object) -> StateStore:
        chosen = StoreSettings(**{"map_bytes": 8 << 20, **options})
        if request.param == "durable":
            store = StateStore(tmp_path / str(len(stores)), chosen)
        else:
            store = StateStore.temporary(chosen)
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


def event(user: str, item: str, time: int) -> Event:
    return Event(user=user, item=item, time=time)


def ids(store: StateStore, key: bytes) -> list[str]:
    """The items of a stored history, as ids."""
    names = store.names()
    return [names[code - 1] for code in store.history(key).items]


def test_an_appended_event_is_in_the_state_and_in_the_log(open_store: Open) -> None:
    store = open_store()
    assert store.append([event("ann", "x", 5)]) == 1
    assert ids(store, b"u:ann") == ["x"]
    assert store.history(b"u:ann").times.tolist() == [5]
    assert list(store.records()) == [(0, event("ann", "x", 5))]


def test_submit_resolves_when_it_is_visible(open_store: Open) -> None:
    store = open_store()
    futures = [store.submit([event("ann", f"i{n}", n), event("bob", f"i{n}", n)]) for n in range(50)]
    assert [future.result(timeout=20) for future in futures] == [2] * 50
    assert ids(store, b"u:ann") == [f"i{n}" for n in range(50)]
    assert [sequence for sequence, _ in store.records()] == list(range(100))


def test_an_unknown_key_has_an_empty_history(open_store: Open) -> None:
    store = open_store()
    assert len(store.history(b"u:nobody")) == 0
    assert store.read([]).counters == (0, 0, 0)
    assert list(store.records()) == []


def test_a_user_and_a_session_of_one_name_are_two(open_store: Open) -> None:
    store = open_store()
    store.append([event("a", "x", 1), Event(session="a", item="y", time=2)])
    assert ids(store, state_key("a", None)) == ["x"]
    assert ids(store, state_key(None, "a")) == ["y"]


def test_every_kind_of_record_comes_back_from_the_log_as_it_was(open_store: Open) -> None:
    store = open_store()
    records: list[Record] = [
        Event(user="ü" * 400, item="é" * 600, time=-3, action="buy", value=2.5, context={"page": 3, "ok": True}),
        ItemUpdate(item="x", time=1, fields={"available": False, "genre": ["a", "b"], "price": 1.5}),
        UserUpdate(user="ann", time=2, fields={"age": "30"}),
    ]
    store.append(records)
    assert [record for _, record in store.records()] == records
    assert [sequence for sequence, _ in store.records(start=1)] == [1, 2]
    assert ids(store, records[0].key) == ["é" * 600]  # type: ignore[union-attr]


def test_the_log_is_read_over_several_transactions(open_store: Open) -> None:
    store = open_store()
    store.append([event("ann", f"i{n % 7}", n) for n in range(9_001)])
    assert [record.time for _, record in store.records()] == list(range(9_001))
    assert [sequence for sequence, _ in store.records(start=9_000)] == [9_000]


def test_codes_are_given_once_and_kept(open_store: Open) -> None:
    store = open_store()
    store.append([event("ann", "x", 1), event("ann", "y", 2), event("bob", "x", 3)])
    assert store.names() == ["x", "y"]
    store.append([event("cat", "z", 4), event("cat", "y", 5)])
    snapshot = store.read([b"u:cat"], first_code=3)
    assert snapshot.names == ["z"]
    assert snapshot.histories[0].items.tolist() == [3, 2]
    assert snapshot.counters == (5, 3, 0)


def test_updates_merge_and_tell_what_changed_since(open_store: Open) -> None:
    store = open_store()
    store.append([ItemUpdate(item="x", time=1, fields={"available": False, "genre": "a"})])
    store.append([ItemUpdate(item="y", time=2, fields={"genre": "b"})])
    store.append([ItemUpdate(item="x", time=3, fields={"available": True})])
    assert store.read([]).counters.version == 3
    assert store.read([]).updates == [("y", {"genre": "b"}), ("x", {"available": True, "genre": "a"})]
    assert store.read([], after_version=2).updates == [("x", {"available": True, "genre": "a"})]
    assert store.read([], after_version=3).updates == []


def test_the_history_is_bounded(open_store: Open) -> None:
    store = open_store(limits=HistoryLimits(window=3, seen=4))
    store.append([event("ann", f"i{n}", n) for n in range(10)])
    history = store.history(b"u:ann")
    assert ids(store, b"u:ann") == ["i7", "i8", "i9"]
    assert len(history.seen) == 4


def test_too_many_waiting_records_are_refused_and_nothing_is_lost(open_store: Open) -> None:
    store = open_store(max_pending=5)
    with store._writing:  # no commit can go on meanwhile
        first = store.submit([event("ann", "x", n) for n in range(3)])
        with pytest.raises(UnavailableError, match="max_pending = 5"):
            store.submit([event("ann", "y", n) for n in range(3)])
        second = store.submit([event("ann", "z", n) for n in range(2)])
    assert (first.result(20), second.result(20)) == (3, 2)
    assert store.append([event("ann", "x", n) for n in range(5)]) == 5
    assert len(list(store.records())) == 10


def test_a_cancelled_future_still_commits(open_store: Open) -> None:
    store = open_store()
    future = store.submit([event("ann", "x", 1)])
    assert not future.cancel()
    assert future.result(20) == 1


def test_an_empty_list_is_accepted(open_store: Open) -> None:
    store = open_store()
    assert store.append([]) == 0
    assert store.submit([]).result(20) == 0


def test_text_that_is_not_unicode_is_refused(open_store: Open) -> None:
    store = open_store()
    with pytest.raises(DataError, match="not Unicode"):
        store.append([event("ann", "\ud800", 1)])
    assert store.append([event("ann", "x", 1)]) == 1


def test_the_map_grows(open_store: Open) -> None:
    store = open_store(map_bytes=1 << 20)
    for n in range(20):
        store.append([event(f"user{n}-{m}", f"item-{m}", m) for m in range(1_000)])
    assert store._env.info()["map_size"] > 1 << 20
    assert len(list(store.records())) == 20_000
    assert ids(store, b"u:user19-999") == ["item-999"]


def test_close_commits_what_waits_and_refuses_more(open_store: Open) -> None:
    store = open_store()
    futures = [store.submit([event("ann", "x", n)]) for n in range(100)]
    store.close()
    store.close()
    assert all(future.result(0) == 1 for future in futures)
    with pytest.raises(UnavailableError, match="closed"):
        store.submit([event("ann", "x", 1)])
    with pytest.raises(UnavailableError, match="closed"):
        store.history(b"u:ann")


def test_threads_that_append_and_read_at_once(open_store: Open) -> None:
    """Each thread sees its own events at once; the log holds everything once, in each user's order."""
    store = open_store(map_bytes=1 << 20)
    wrong: list[str] = []

    def work(user: str) -> None:
        for n in range(60):
            if n % 2:
                store.append([event(user, f"{user}{n}", n)])
            else:
                store.submit([event(user, f"{user}{n}", n)]).result(20)
            if len(store.history(f"u:{user}".encode())) != n + 1:
                wrong.append(f"{user} {n}")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    log = [record for _, record in store.records()]
    for name in "abcd":
        assert [r.time for r in log if isinstance(r, Event) and r.user == name] == list(range(60))


streams = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("uvwxyz"), st.integers(0, 12), st.booleans()), max_size=40
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(streams, st.integers(1, 6), st.integers(1, 4))
def test_the_state_is_the_reducer_over_the_log(
    open_store: Open, stream: list[tuple[str, str, int, bool]], window: int, seen: int
) -> None:
    limits = HistoryLimits(window=window, seen=seen)
    store = open_store(limits=limits)
    group: list[Event] = []
    for user, item, time, flush in stream:
        group.append(event(user, item, time))
        if flush:
            store.append(group)
            group = []
    store.append(group)
    names = store.names()
    for user in "abc":
        expected = History()
        for name, item, time, _ in stream:
            if name == user:
                expected.append(names.index(item) + 1, time, limits)
        found = store.history(f"u:{user}".encode())
        for field in ("items", "times", "seen"):
            np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))
    assert [record for _, record in store.records()] == [event(u, i, t) for u, i, t, _ in stream]
    store.close()
