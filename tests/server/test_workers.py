"""Several workers with one state: what one acknowledges, all know; dead ones come back; a stop loses nothing."""

import os
import re
import signal
import threading
import time
from collections import Counter
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


def clients(server: Served, each: int = 4) -> list[httpx.Client]:
    """Open connections until both workers hold `each` of them; one client is one kept-alive connection."""
    found: dict[str, list[httpx.Client]] = {}
    for _ in range(200):
        client = httpx.Client(base_url=server.url, timeout=30, limits=httpx.Limits(max_connections=1))
        worker = client.get("/health/live").headers["x-worker"]
        found.setdefault(worker, []).append(client)
        if len(found) == 2 and min(map(len, found.values())) >= each:
            break
    assert len(found) == 2, "both workers must answer"
    for extra in (client for some in found.values() for client in some[each:]):
        extra.close()
    return [client for pair in zip(*(some[:each] for some in found.values()), strict=True) for client in pair]


def test_every_worker_knows_what_any_worker_acknowledged(bundle: Path, tmp_path: Path) -> None:
    """2,000 events, each followed at once by a question over another connection. An item that the user has had never
    comes back, so an answer that has not seen the event, or any before it, shows it."""
    with served(bundle, tmp_path, "--workers", "2") as server:
        connections = clients(server)
        failures: list[str] = []
        answered: Counter[tuple[str, str]] = Counter()

        def walk(number: int) -> None:
            """50 users take 20 items each; event and question go to neighbours in the list: to different workers."""
            mine = connections[number], connections[(number + 1) % len(connections)]
            for user in range(number * 25, number * 25 + 25):
                had = []
                for step in range(10):
                    item = f"i{(user * 7 + step * 11) % 60 + 1}"
                    had.append(item)
                    told = mine[step % 2].post("/feedback", json=event(f"u{user}", item))
                    asked = mine[1 - step % 2].post("/recommend", json={"user": f"u{user}", "k": 60})
                    answered[told.headers["x-worker"], asked.headers["x-worker"]] += 1
                    names = {entry["item"] for entry in asked.json()["items"]}
                    if told.json() != {"accepted": 1} or names & set(had) or len(names) != 60 - len(set(had)):
                        failures.append(f"{user} {step}: {sorted(names & set(had))} {len(names)}")

        # Neighbours share a connection, and httpx clients are thread-safe: calls interleave.
        threads = [threading.Thread(target=walk, args=(number,)) for number in range(len(connections))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert sum(answered.values()) == 2000
        crossed = sum(count for (told, asked), count in answered.items() if told != asked)
        assert crossed > 500
        for client in connections:
            client.close()
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
        connections = clients(server, each=1)
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
        pids = {int(client.get("/health/live").headers["x-worker"]) for client in clients(server, each=1)}
        server.process.kill()
        server.process.wait()

        def gone(pid: int) -> bool:
            try:
                return (Path("/proc") / str(pid) / "stat").read_text().split()[2] == "Z"
            except OSError:
                return True

        until(lambda: all(map(gone, pids)))
