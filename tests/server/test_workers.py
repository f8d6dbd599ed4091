"""Several workers with one state: what one acknowledges, all know; dead ones come back; a stop loses nothing."""

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


def pair(server: Served) -> tuple[httpx.Client, httpx.Client]:
    """Two kept-alive connections, to different workers."""
    found: dict[str, httpx.Client] = {}
    for _ in range(200):
        client = httpx.Client(base_url=server.url, timeout=30, limits=httpx.Limits(max_connections=1))
        worker = client.get("/health/live").headers["x-worker"]
        if worker in found:
            client.close()
        found.setdefault(worker, client)
        if len(found) == 2:
            first, second = found.values()
            return first, second
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
            first = teller.post("/feedback", json=event(user, item))
            second = asker.post("/recommend", json={"user": user, "k": 60})
            assert first.headers["x-worker"] != second.headers["x-worker"]
            told[first.headers["x-worker"]] += 1
            names = {entry["item"] for entry in second.json()["items"]}
            if first.json() != {"accepted": 1} or names & had or len(names) != 60 - len(had):
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
        connections = pair(server)
        for client in connections:
            for _ in range(10):
                ask(client, "/recommend", {"items": ["i1"]})

        def total(client: httpx.Client, name: str) -> float:
            found = re.findall(rf"^{name} (\S+)$", client.get("/metrics").text, re.MULTILINE)
            return sum(map(float, found))

        count = 'millirec_requests_total{route="/recommend",status="200"}'
        for client in connections:
            until(lambda client=client: total(client, re.escape(count)) == 20)
            assert total(client, "millirec_ready_workers") == 2
            assert total(client, re.escape('millirec_stage_seconds_count{stage="encode"}')) == 20
            client.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_stops_in_order(bundle: Path, tmp_path: Path, workers: str) -> None:
    with served(bundle, tmp_path, "--workers", workers) as server:
        assert server.stop(signal.SIGINT) == 0


def test_workers_do_not_outlive_a_killed_supervisor(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path, "--workers", "2") as server:
        pids = []
        for client in pair(server):
            pids.append(int(client.get("/health/live").headers["x-worker"]))
            client.close()
        server.process.kill()
        server.process.wait()

        def gone(pid: int) -> bool:
            try:
                return (Path("/proc") / str(pid) / "stat").read_text().split()[2] == "Z"
            except OSError:
                return True

        until(lambda: all(map(gone, pids)))
