"""Several workers with one state: what one acknowledges, all know; dead ones come back; a stop loses nothing."""

import http.client
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from millirec.engine.state import StateStore, StoreSettings
from tests.serving import Served, ask, event, served


def until(true, seconds: float = 30) -> None:
    """Wait until `true()` holds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.05)


class Line:
    """One kept-alive connection, so one worker; http.client costs a third of what httpx does, and calls are many."""

    def __init__(self, server: Served) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        self.worker = ""
        self.call("GET", "/health/live")

    def call(self, method: str, path: str, body: object = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, data, {"content-type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        self.worker = answer.headers["x-worker"]
        return json.loads(text)

    def close(self) -> None:
        self._connection.close()


def pair(server: Served) -> tuple[Line, Line]:
    """Two connections, to different workers."""
    first = Line(server)
    for _ in range(200):
        second = Line(server)
        if second.worker != first.worker:
            return first, second
        second.close()
    raise AssertionError("both workers must answer")


def walk(server: Served, number: int) -> tuple[list[str], Counter[str]]:
    """25 users take 10 items each, one worker hearing of it and the other asked at once; what was not as it must be.

    Items the user has had never come back, so an answer that has not seen the last event, or any before it, shows.
    """
    connections = pair(server)
    failures: list[str] = []
    told: Counter[str] = Counter()
    for user in (f"u{number}-{n}" for n in range(25)):
        had: set[str] = set()
        for step in range(10):
            item = f"i{(number * 7 + step * 11) % 60 + 1}"
            had.add(item)
            teller, asker = connections if step % 2 else connections[::-1]
            accepted = teller.call("POST", "/feedback", event(user, item))
            answer = asker.call("POST", "/recommend", {"user": user, "k": 60})
            assert teller.worker != asker.worker
            told[teller.worker] += 1
            names = {entry["item"] for entry in answer["items"]}
            if accepted != {"accepted": 1} or names & had or len(names) != 60 - len(had):
                failures.append(f"{user} {step}: {sorted(names & had)} came back, {len(names)} in all")
    for client in connections:
        client.close()
    return failures, told


def test_every_worker_knows_what_any_worker_acknowledged(bundle: Path, tmp_path: Path) -> None:
    """2,000 events, each followed at once by a question to the other worker; eight such walks interleave."""
    with served(bundle, tmp_path, "--workers", "2") as server:
        with ThreadPoolExecutor(8) as pool:
            walks = list(pool.map(lambda number: walk(server, number), range(8)))
        assert [failure for failures, _ in walks for failure in failures] == []
        told = sum((counts for _, counts in walks), Counter())
        assert sorted(told.values()) == [1000, 1000]
        assert server.stop() == 0
    with StateStore(server.data, StoreSettings(), read_only=True) as store:
        assert sum(1 for _ in store.records()) == 2000


def test_a_stop_under_load_loses_nothing_acknowledged(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path, "--workers", "2") as server:
        acknowledged: list[str] = []
        stopped = threading.Event()

        def pour(number: int) -> None:
            n = 0
            with httpx.Client(base_url=server.url, timeout=30) as client:
                while not stopped.is_set():
                    user = f"u{number}-{n}"
                    n += 1
                    try:
                        answer = client.post("/feedback", json=event(user, "i1"))
                    except httpx.HTTPError:
                        return
                    if answer.status_code == 200:
                        acknowledged.append(user)
                    else:
                        assert answer.status_code == 503, answer.text

        threads = [threading.Thread(target=pour, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        until(lambda: len(acknowledged) > 200)
        code = server.stop()
        stopped.set()
        for thread in threads:
            thread.join()
        assert code == 0
        assert "Traceback" not in server.errors.read_text()
    with StateStore(server.data, StoreSettings(), read_only=True) as store:
        durable = {record.user for _, record in store.records()}
    assert set(acknowledged) <= durable


def test_a_killed_worker_is_replaced_and_the_log_keeps_what_it_acknowledged(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path, "--workers", "2") as server:

        def workers() -> set[str]:
            seen = set()
            for _ in range(30):
                try:
                    answer = httpx.get(f"{server.url}/health/ready")
                except httpx.HTTPError:
                    continue
                if answer.status_code == 200:
                    assert answer.json()["parent"] == server.process.pid
                    seen.add(answer.headers["x-worker"])
            return seen

        old = workers()
        assert len(old) == 2
        with httpx.Client(base_url=server.url) as client:
            answer = client.post("/feedback", json=event("u", "i1"))
            victim = answer.headers["x-worker"]
            os.kill(int(victim), signal.SIGKILL)
        until(lambda: len(workers() - {victim}) == 2)
        assert len(workers() & old) == 1
        with httpx.Client(base_url=server.url) as client:
            assert "i1" not in {entry["item"] for entry in ask(client, "/recommend", {"user": "u", "k": 60})["items"]}
        assert "starting another" in server.errors.read_text()
        assert server.stop() == 0


def test_metrics_of_any_worker_show_the_sum(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path, "--workers", "2") as server:
        for line in pair(server):
            for _ in range(10):
                line.call("POST", "/recommend", {"items": ["i1"]})
            line.close()

        def total(name: str) -> float:
            text = httpx.get(f"{server.url}/metrics").text  # a new connection: either worker
            return sum(map(float, re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)))

        until(lambda: total('millirec_requests_total{route="/recommend",status="200"}') == 20)
        for _ in range(6):
            assert total("millirec_ready_workers") == 2
            assert total('millirec_stage_seconds_count{stage="encode"}') == 20


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_stops_in_order(bundle: Path, tmp_path: Path, workers: str) -> None:
    with served(bundle, tmp_path, "--workers", workers) as server:
        assert server.stop(signal.SIGINT) == 0


def test_workers_do_not_outlive_a_killed_supervisor(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path, "--workers", "2") as server:
        pids = []
        for line in pair(server):
            pids.append(int(line.worker))
            line.close()
        server.process.kill()
        server.process.wait()

        def gone(pid: int) -> bool:
            try:
                return (Path("/proc") / str(pid) / "stat").read_text().split()[2] == "Z"
            except OSError:
                return True

        until(lambda: all(map(gone, pids)))
