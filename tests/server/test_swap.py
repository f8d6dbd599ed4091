"""Another bundle while requests come in: none fails, users stay who they are, and the way back."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from millirec.bundle import open_bundle
from millirec.server.deployment import Deployment, Deployments
from millirec.server.report import Abandon, Commit, Committed, Prepare, Prepared, Refused
from millirec.server.rollout import Rollout
from tests.bundles import tiny_bundle
from tests.serving import Served, ask, event, served

CASCADE = """[[selectors]]
kind = "quota"
feature = "genre"
most = 1
"""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bundles: old, new, a damaged one, and a cascade."""
    folder = tmp_path_factory.mktemp("shelf")
    tiny_bundle(folder, "old")
    tiny_bundle(folder, "new", seed=1)
    damaged = tiny_bundle(folder, "damaged", seed=2)
    with (damaged / "tensors.safetensors").open("r+b") as file:
        file.truncate(100)
    (folder / "one-of-each.toml").write_text(CASCADE)
    (folder / "wrong.toml").write_text('[[selectors]]\nkind = "quota"\nfeature = "colour"\nmost = 1\n')
    tiny_bundle(folder.parent / "elsewhere", "outside")
    (folder / "way-out").symlink_to(folder.parent / "elsewhere" / "outside")
    return folder


@pytest.fixture(scope="module")
def server(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(shelf / "old", tmp_path_factory.mktemp("swap"), "--workers", "2", "--bundles", str(shelf)) as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.errors.read_text()


@pytest.fixture
def client(server: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as session:
        yield session


def version(folder: Path) -> str:
    return open_bundle(folder).version


def everywhere(server: Served, user: str) -> dict[str, dict]:
    """What each of the two workers answers, by worker."""
    found: dict[str, dict] = {}
    for _ in range(200):
        answer = httpx.post(f"{server.url}/recommend", json={"user": user, "k": 60})
        found[answer.headers["x-worker"]] = answer.json()
        if len(found) == 2:
            return found
    raise AssertionError("both workers must answer")


class Load(threading.Thread):
    """Asks without a pause on one connection: statuses that are not 200, and (when, version) of each answer."""

    def __init__(self, port: int, stop: threading.Event) -> None:
        super().__init__()
        self.port, self.stop = port, stop
        self.wrong: list[object] = []
        self.met: list[tuple[float, str]] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = json.dumps({"user": "ann", "k": 60})
        while not self.stop.is_set():
            begun = time.monotonic()
            try:
                connection.request("POST", "/recommend", body, {"content-type": "application/json"})
                answer = connection.getresponse()
                said = json.loads(answer.read())
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(error)
                return
            if answer.status != 200 or {"i1", "i2"} & {item["item"] for item in said["items"]}:
                self.wrong.append((answer.status, said))
            else:
                self.met.append((begun, said["model_version"]))
        connection.close()


@contextmanager
def load(port: int, n: int = 6) -> Iterator[list[Load]]:
    stop = threading.Event()
    threads = [Load(port, stop) for _ in range(n)]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_swap_and_rollback_under_load(server: Served, client: httpx.Client, shelf: Path) -> None:
    old, new = version(shelf / "old"), version(shelf / "new")
    for item in ("i1", "i2"):
        ask(client, "/feedback", event("ann", item))
    before = everywhere(server, "ann")
    with load(server.port) as threads:
        changes = []
        for path, body, expected in (
            ("/bundles", {"path": "new"}, new),
            ("/bundles/rollback", {}, old),
            ("/bundles", {"path": "new"}, new),
        ):
            answer = ask(client, path, body)
            changes.append((time.monotonic(), expected))
            assert answer["serves"]["model_version"] == expected
            assert answer["workers"] == 2
            time.sleep(0.3)
        after = everywhere(server, "ann")
    assert [wrong for thread in threads for wrong in thread.wrong] == []
    met = [answer for thread in threads for answer in thread.met]
    assert {found for _, found in met} == {old, new}
    for at, (told, expected) in enumerate(changes):
        until = changes[at + 1][0] - 0.3 if at + 1 < len(changes) else float("inf")
        since = [found for begun, found in met if told <= begun < min(told + 0.3, until)]
        assert since
        assert set(since) == {expected}  # once it is answered, no worker answers from the old one
    assert {answer["model_version"] for answer in after.values()} == {new}
    assert all(answer["items"] != before[worker]["items"] for worker, answer in after.items())
    ask(client, "/bundles/rollback", {})
    again = everywhere(server, "ann")
    assert {worker: answer["items"] for worker, answer in again.items()} == {
        worker: answer["items"] for worker, answer in before.items()
    }


def test_what_serves_and_what_did(server: Served, client: httpx.Client, shelf: Path) -> None:
    began = client.get("/bundles").json()
    assert began["there"] == ["damaged", "new", "old", "way-out"]
    assert (began["serves"]["path"], began["serves"]["model"]) == ("old", "old")
    assert client.get("/health/ready").json()["model_version"] == version(shelf / "old")
    ask(client, "/bundles", {"path": "new"})
    told = client.get("/bundles").json()
    assert [entry["path"] for entry in (told["serves"], *told["before"])] == ["new", "old"]
    assert told["serves"]["since"] >= told["before"][0]["since"] > 0
    assert 'millirec_model_info{model="new"' in client.get("/metrics").text
    answer = client.post("/bundles/rollback", content=b"")  # a body is not needed
    assert answer.status_code == 200
    assert answer.json()["before"] == []
    refused = ask(client, "/bundles/rollback", {}, 409)["error"]
    assert refused["code"] == "nothing_before"


def test_a_cascade_is_swapped_with_a_bundle_or_alone(server: Served, client: httpx.Client) -> None:
    def genres() -> int:
        answers = everywhere(server, "bob").values()
        assert len({len(answer["items"]) for answer in answers}) == 1
        return len(next(iter(answers))["items"])

    usual = genres()
    told = ask(client, "/bundles", {"cascade": "one-of-each.toml"})
    assert (told["serves"]["path"], told["serves"]["cascade"]) == ("old", "one-of-each.toml")
    assert genres() == 3 < usual
    told = ask(client, "/bundles", {"path": "new"})
    assert (told["serves"]["path"], told["serves"]["cascade"]) == ("new", "one-of-each.toml")
    assert genres() == 3
    assert "cascade" not in ask(client, "/bundles", {"cascade": None})["serves"]
    assert genres() == usual
    for _ in range(2):
        told = ask(client, "/bundles/rollback", {})
    assert (told["serves"]["path"], told["serves"]["cascade"]) == ("old", "one-of-each.toml")
    assert genres() == 3
    ask(client, "/bundles/rollback", {})
    assert genres() == usual


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"path": "damaged"}, "tensors.safetensors"),
        ({"path": "nowhere"}, "nowhere"),
        ({"path": "../elsewhere/outside"}, "not in the folder"),
        ({"path": "way-out"}, "not in the folder"),
        ({"path": "/etc"}, "not in the folder"),
        ({"path": "."}, "not in the folder"),
        ({"path": "a\0b"}, "not in the folder"),
        ({"path": "one-of-each.toml"}, "no such folder"),
        ({"cascade": "wrong.toml"}, "colour"),
        ({"cascade": "new"}, "cannot be read"),
        ({"cascade": "old/manifest.json"}, "manifest.json"),
        ({}, "path"),
        ({"bundle": "new"}, "unknown field"),
    ],
)
def test_what_does_not_open_or_fit_leaves_the_old_one(
    server: Served, client: httpx.Client, shelf: Path, body: dict, words: str
) -> None:
    refused = ask(client, "/bundles", body, 422)["error"]
    assert words in refused["message"]
    assert refused["mend"]
    told = client.get("/bundles").json()
    assert (told["serves"]["path"], told["before"]) == ("old", [])
    for answer in everywhere(server, "ann").values():
        assert answer["model_version"] == version(shelf / "old")


def test_two_changes_at_once_and_a_worker_that_dies(server: Served, client: httpx.Client, shelf: Path) -> None:
    """Every change is made or refused as a whole; a worker that is started later serves what the others do."""
    answers: list[int] = []

    def change() -> None:
        answers.append(httpx.post(f"{server.url}/bundles", json={"path": "new"}, timeout=60).status_code)

    threads = [threading.Thread(target=change) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(answers) <= {200, 409}
    made = answers.count(200)
    assert made >= 1
    assert len(client.get("/bundles").json()["before"]) == made
    victim = next(iter(everywhere(server, "ann")))
    os.kill(int(victim), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while True:
        assert time.monotonic() < deadline
        try:
            found = everywhere(server, "ann")
        except (httpx.HTTPError, AssertionError):
            continue
        if victim not in found and all("model_version" in answer for answer in found.values()):
            break
        time.sleep(0.05)
    assert {answer["model_version"] for answer in found.values()} == {version(shelf / "new")}
    with httpx.Client(base_url=server.url, timeout=60) as fresh:
        for _ in range(made):
            told = ask(fresh, "/bundles/rollback", {})
    assert (told["serves"]["path"], told["before"]) == ("old", [])
    assert {answer["model_version"] for answer in everywhere(server, "ann").values()} == {version(shelf / "old")}


def test_one_process_alone_and_its_token(shelf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shelf"
    shutil.copytree(shelf / "old", folder / "first")
    shutil.copytree(shelf / "new", folder / "second")
    options = ("--bundles", str(folder))
    with (
        served(folder / "first", tmp_path / "one", *options, environment={"MILLIREC_ADMIN_TOKEN": "s3cret"}) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic s3cret"}):
            for answer in (
                client.get("/bundles", headers=header),
                client.post("/bundles", json={"path": "second"}, headers=header),
                client.post("/bundles/rollback", headers=header),
            ):
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        client.headers["authorization"] = "Bearer s3cret"
        ask(client, "/bundles/rollback", {}, 409)
        assert ask(client, "/bundles", {"path": "second"})["serves"]["model_version"] == version(folder / "second")
        assert ask(client, "/recommend", {"items": ["i1"]})["model_version"] == version(folder / "second")
        # What served is not there any more: something else was packed in its place.
        shutil.rmtree(folder / "first")
        shutil.copytree(folder / "second", folder / "first")
        refused = ask(client, "/bundles/rollback", {}, 422)["error"]
        assert version(shelf / "old") in refused["message"]
        assert ask(client, "/recommend", {"items": ["i1"]})["model_version"] == version(folder / "second")
        spec = client.get("/openapi.json").json()
        names = [entry["operationId"] for path in spec["paths"].values() for entry in path.values()]
        assert len(set(names)) == len(names)
        assert {"get", "post"} <= set(spec["paths"]["/bundles"])
        assert client.put("/bundles").headers["allow"] == "GET, HEAD, POST"
        assert server.stop() == 0


def test_off_unless_asked_for_and_never_open_to_everybody(client: httpx.Client, shelf: Path, tmp_path: Path) -> None:
    with served(shelf / "old", tmp_path / "plain") as server:
        for method, path in (("GET", "/bundles"), ("POST", "/bundles"), ("POST", "/bundles/rollback")):
            assert httpx.request(method, f"{server.url}{path}").status_code == 404
    command = [sys.executable, "-m", "millirec", "serve", str(shelf / "old"), "--port", "0", "--data", str(tmp_path)]
    for options, words in (
        (["--bundles", str(shelf), "--host", "0.0.0.0"], "MILLIREC_ADMIN_TOKEN"),
        (["--bundles", str(tmp_path / "nowhere")], "nowhere"),
    ):
        run = subprocess.run([*command, *options], capture_output=True, text=True, timeout=60)
        assert run.returncode == 2
        assert words in run.stderr


class Staff:
    """Three workers on paper, and what a rollout tells them and the one who asked."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, object]] = []
        self.said: list[object] = []
        state = Deployments(serves=Deployment(bundle="a")).swapped(Deployment(bundle="b"))
        self.rollout = Rollout(
            ["x", "y", "z"], state, lambda *told: self.orders.append(told), self.said.append, self.said.append
        )

    def told(self, kind: type) -> list[str]:
        return [worker for worker, order in self.orders if isinstance(order, kind)]


def test_a_rollout_commits_when_all_are_ready_and_only_then() -> None:
    staff = Staff()
    assert staff.told(Prepare) == ["x", "y", "z"]
    staff.rollout.heard("x", Prepared("m", "1"))
    staff.rollout.heard("x", Prepared("m", "1"))
    staff.rollout.gone("y")
    assert staff.told(Commit) == []
    staff.rollout.heard("z", Prepared("m", "1"))
    assert staff.told(Commit) == ["x", "z"]
    staff.rollout.heard("x", Committed())
    assert staff.said == []
    staff.rollout.gone("z")
    (state,) = staff.said
    assert (state.serves.version, state.before[0].bundle) == ("1", "a")
    assert staff.told(Abandon) == []


def test_a_rollout_that_one_refuses_is_abandoned_by_all() -> None:
    for report in (Refused("damaged", "mend it"), Prepared("m", "2")):
        staff = Staff()
        staff.rollout.heard("x", Prepared("m", "1"))
        staff.rollout.heard("y", report)
        staff.rollout.heard("z", Prepared("m", "1"))
        assert staff.told(Abandon) == ["x", "y", "z"]
        assert staff.told(Commit) == []
        assert len(staff.said) == 1
        assert isinstance(staff.said[0], Refused)
    staff = Staff()
    for worker in "xyz":
        staff.rollout.gone(worker)
    assert isinstance(staff.said[0], Refused)
