"""A bundle with a ranker and one without take turns under load: nothing fails, and no event is missed."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx
import pytest

from millirec.bundle import Bundle, open_bundle, pack
from millirec.cascade.query import Query
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore
from millirec.server.service import warm_up
from tests.ranked import history, ranked_bundle, rankers
from tests.serving import Served, ask, event, served

LAST = int(history().interactions.times.max())
ASKED_AT = LAST + 50_000_000
NAMES = [f"i{row}" for row in range(1, 9)]
PEOPLE = ("u1", "u2", "new1", "new2")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles of one sequence model: "plain", and "ranked" with a ranker."""
    folder = tmp_path_factory.mktemp("shelf")
    ranked_bundle(folder)
    pack(rankers()[0], folder / "plain")
    return folder


class Crowd:
    """Threads that ask, and tell of events, until they are told to stop."""

    def __init__(self, url: str) -> None:
        self.url, self.stop, self.numbers = url, threading.Event(), count()
        self.wrong: list[object] = []
        self.met: set[tuple[str, bool]] = set()
        self.accepted = 0

    def ask(self) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self.stop.is_set():
                body = {"user": "u1", "k": 4, "timestamp": ASKED_AT, "trace": True}
                answer = client.post("/recommend", json=body)
                if answer.status_code != 200:
                    self.wrong.append(answer.text)
                    return
                said = answer.json()
                ranked = any(stage["name"] == "ranker" for stage in said["stages"])
                self.met.add((said["model_version"], ranked))

    def tell(self) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self.stop.is_set():
                n = next(self.numbers)
                body = event(PEOPLE[n % 4], NAMES[n * 5 % 8], value=n % 2, timestamp=LAST + 1 + n)
                answer = client.post("/feedback", json=body)
                if answer.status_code != 200:
                    self.wrong.append(answer.text)
                    return
                self.accepted += 1

    @contextmanager
    def busy(self) -> Iterator[None]:
        self.stop.clear()
        threads = [threading.Thread(target=work) for work in (self.ask, self.ask, self.tell)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()


def by_workers(server: Served, user: str) -> dict[str, dict[str, float]]:
    """The chances that each of the two workers gives all items for somebody."""
    found: dict[str, dict[str, float]] = {}
    for _ in range(200):
        body = {"user": user, "candidates": NAMES, "timestamp": ASKED_AT}
        answer = httpx.post(f"{server.url}/rank", json=body, timeout=60)
        found[answer.headers["x-worker"]] = {item["item"]: item["score"] for item in answer.json()["items"]}
        if len(found) == 2:
            return found
    raise AssertionError("both workers must answer")


def by_the_whole_log(bundle: Bundle, data: Path, user: str) -> dict[str, float]:
    """The same from an engine that has just been opened, and has read the log from its begin."""
    engine = Engine(bundle, StateStore(data, read_only=True))
    warm_up(engine, 1)
    found = engine.recommend(Query(user=user, candidates=tuple(NAMES), time=ASKED_AT))
    engine.close()
    return dict(zip(found.items, found.scores, strict=True))


def test_a_ranker_comes_and_goes_under_load(shelf: Path, tmp_path: Path) -> None:
    ranked, plain = open_bundle(shelf / "ranked"), open_bundle(shelf / "plain")
    told = []
    with (
        served(shelf / "plain", tmp_path, "--workers", "2", "--bundles", str(shelf)) as server,
        httpx.Client(base_url=server.url, timeout=120) as client,
    ):
        crowd = Crowd(server.url)
        for _ in range(2):
            with crowd.busy():
                answer = ask(client, "/bundles", {"path": "ranked"})
                assert answer["serves"]["model_version"] == ranked.version
            for user in PEOPLE:
                wanted = by_the_whole_log(ranked, server.data, user)
                for found in by_workers(server, user).values():
                    assert found == pytest.approx(wanted, abs=1e-6), user
            told.append(by_the_whole_log(ranked, server.data, "new1"))
            with crowd.busy():
                answer = ask(client, "/bundles/rollback", {})
                assert answer["serves"]["model_version"] == plain.version
        assert crowd.wrong == []
        assert crowd.met == {(plain.version, False), (ranked.version, True)}
        assert told[0] != told[1]  # what was told meanwhile counts
        with StateStore(server.data, read_only=True) as store:
            entries = store.read([], 1 << 62, 1 << 62, 0).entries
            assert len(entries) == min(crowd.accepted, 4096)
        assert server.stop() == 0
        assert "Traceback" not in server.errors.read_text()
