"""One store, several real processes: visibility, sudden death, growth, a full disk."""

import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from millirec.bundle import Bundle
from millirec.cascade.query import Query
from millirec.data.event import Event
from millirec.data.history import History, HistoryLimits
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore, StoreSettings

CHILD = Path(__file__).with_name("child.py")


@contextmanager
def child(role: str, folder: Path, map_bytes: int = 64 << 20) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(CHILD), role, str(folder), str(map_bytes)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def tell(process: subprocess.Popen[str], **order: Any) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def assert_log_and_state_agree(store: StateStore) -> list[Event]:
    """The state of every user is the reducer over the log; sequences have no gap."""
    log = list(store.records())
    assert [sequence for sequence, _ in log] == list(range(len(log)))
    events = [record for _, record in log if isinstance(record, Event)]
    codes = {name: code for code, name in enumerate(store.names(), start=1)}
    expected: dict[bytes, History] = {}
    for event in events:
        expected.setdefault(event.key, History()).append(codes[event.item], event.time, HistoryLimits())
    for key, history in expected.items():
        found = store.history(key)
        np.testing.assert_array_equal(found.items, history.items)
        np.testing.assert_array_equal(found.times, history.times)
        np.testing.assert_array_equal(found.seen, history.seen)
    return events


def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    """Three lives on one folder, each killed in mid-stream at a random moment."""
    chance = random.Random(0)
    acknowledged: list[Event] = []
    for _ in range(3):
        with child("stream", tmp_path) as process:
            assert line(process) == "ready"
            for _ in range(chance.randint(5, 40)):
                n = int(line(process))
                acknowledged += [Event(user=f"u{m % 7}", item=f"i{m % 50}", time=m) for m in range(n, n + 3)]
                acknowledged.append(Event(user="solo", item=f"i{n % 11}", time=n))
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        with StateStore(tmp_path, StoreSettings(map_bytes=64 << 20)) as store:
            stored = assert_log_and_state_agree(store)
        for event in acknowledged:
            assert stored.count(event) >= acknowledged.count(event)


def test_a_killed_writer_does_not_lock_the_others_out(tmp_path: Path) -> None:
    with StateStore(tmp_path, StoreSettings(map_bytes=64 << 20)) as store:
        for n in range(3):
            with child("stream", tmp_path) as process:
                assert [line(process) for _ in range(4)][0] == "ready"  # noqa: RUF015
                store.append([Event(user="parent", item="x", time=n)])
                process.send_signal(signal.SIGKILL)
                process.wait()
            assert store.append([Event(user="parent", item="y", time=n)]) == 1
        assert len(store.history(b"u:parent")) == 6
        assert_log_and_state_agree(store)


def test_an_event_of_one_process_is_in_the_next_read_of_another(tmp_path: Path) -> None:
    with StateStore(tmp_path) as store, child("obey", tmp_path) as process:
        assert line(process) == "ready"
        expected = []
        for n in range(300):
            expected.append(f"i{n % 17}-{n % 2}")
            if n % 2:
                store.append([Event(user="ann", item=expected[-1], time=n)])
                assert json.loads(tell(process, do="read", user="ann")) == expected[-256:]
            else:
                assert tell(process, do="event", user="ann", item=expected[-1], time=n) == "done"
                names = store.names()
                assert [names[code - 1] for code in store.history(b"u:ann").items] == expected[-256:]
        assert_log_and_state_agree(store)


def test_an_update_of_one_process_is_in_the_next_answer_of_another(tmp_path: Path, bundle: Bundle) -> None:
    engine = Engine(bundle, StateStore(tmp_path))
    with child("obey", tmp_path) as process:
        assert line(process) == "ready"
        best = engine.recommend(Query(items=("i1",), k=2)).items
        tell(process, do="item", item=best[0], fields={"available": False})
        assert engine.recommend(Query(items=("i1",), k=1)).items == best[1:]
        tell(process, do="item", item=best[0], fields={"available": True})
        assert engine.recommend(Query(items=("i1",), k=2)).items == best
        tell(process, do="event", user="ann", item="i1", time=0)
        assert engine.recommend(Query(user="ann", k=2)).items == best
        tell(process, do="event", user="ann", item="i1", time=1)
        answers = engine.recommend_many([Query(user="ann"), Query(items=("i1", "i1"))])
        assert answers[0].items == answers[1].items
    engine.close()


def test_a_map_that_another_process_has_grown_is_followed(tmp_path: Path) -> None:
    with StateStore(tmp_path, StoreSettings(map_bytes=1 << 20)) as store, child("obey", tmp_path, 1 << 20) as process:
        assert line(process) == "ready"
        assert tell(process, do="many", n=4_000) == "done"
        assert len(store.history(b"u:m3999")) == 1
        store.append([Event(user=f"p{n}", item=f"i{n}", time=n) for n in range(12_000)])
        assert json.loads(tell(process, do="read", user="p11999")) == ["i11999"]
        assert tell(process, do="many", n=4_000) == "done"
        assert store.append([Event(user="p", item="x", time=1)]) == 1
        assert store.read([]).counters.records == 20_001


def test_a_full_disk_refuses_clearly_loses_nothing_and_recovers(tmp_path: Path) -> None:
    with child("full", tmp_path) as process:
        message, commits, kept, after = (line(process) for _ in range(4))
    assert "nothing was written" in message
    assert "free space on the disk" in message
    assert int(kept) == 500 * int(commits) > 0
    assert int(after) == int(kept) + 1


def test_a_store_is_not_carried_over_a_fork(tmp_path: Path) -> None:
    with child("fork", tmp_path) as process:
        assert "does not survive a fork" in line(process)


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    with StateStore(tmp_path, StoreSettings(map_bytes=1 << 20)) as store, child("obey", tmp_path, 1 << 20) as process:
        assert line(process) == "ready"
        assert process.stdin is not None
        for _ in range(20):
            process.stdin.write(json.dumps({"do": "many", "n": 400}) + "\n")
        process.stdin.flush()
        futures = [store.submit([Event(user=f"p{n % 50}", item=f"x{n}", time=n)]) for n in range(4_000)]
        assert sum(future.result(60) for future in futures) == 4_000
        assert [line(process) for _ in range(20)] == ["done"] * 20
        assert store.read([]).counters.records == 12_000
        assert_log_and_state_agree(store)
