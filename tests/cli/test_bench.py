"""`millirec bench` against real servers; figures are not judged here, only that they are there and add up."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.bundles import tiny_bundle
from tests.serving import Served, served

SHORT = ("--seconds", "0.4", "--warm-up", "0.2", "--connections", "4", "--json")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(bundle, tmp_path_factory.mktemp("server"), "--workers", "2", "--yardstick") as running:
        yield running


def bench(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "millirec", "bench", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def report(*options: object) -> dict:
    run = bench(*options, *SHORT)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_a_bundle_is_served_and_loaded_on_schedule(bundle: Path) -> None:
    found = report(bundle, "--rate", 100, "--history", 5)
    assert (found["mode"], found["n"], found["errors"]) == ("open loop", 40, {})
    latency = found["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99_9"] <= latency["max"]
    assert found["server"]["processes"] == 1
    assert found["server"]["rss_mb"] > 20
    assert found["questions"]["history"] == 5
    assert found["verdict"]


def test_saturation_of_a_url(server: Served) -> None:
    found = report(server.url, "--path", "/noop")
    assert (found["mode"], found["rate"], found["errors"]) == ("closed loop", None, {})
    assert found["requests_per_second"] == pytest.approx(found["n"] / 0.4, rel=0.01)
    assert found["n"] > 20
    assert found["server"]["processes"] == 3  # the supervisor and its two workers


def test_the_servers_own_users_and_poisson_arrivals(server: Served, tmp_path: Path) -> None:
    users = tmp_path / "users.txt"
    users.write_text("a\nb\n")
    found = report(server.url, "--users", users, "--rate", 50, "--poisson")
    assert found["errors"] == {}
    assert 3 < found["n"] < 80


def test_known_users_are_fed_first(server: Served) -> None:
    found = report(server.url, "--known-users", 3, "--history", 4, "--rate", 50, "--allow-writes")
    assert found["errors"] == {}
    assert found["n"] == 20
    with httpx.Client(base_url=server.url) as client:
        known = client.post("/recommend", json={"user": "bench-2", "explain": True}).json()
    assert {item["source"] for item in known["items"]} == {"sequence"}


def test_events_and_questions_mixed(server: Served) -> None:
    for path in ("/feedback", "mixed"):
        assert report(server.url, "--path", path, "--rate", 50, "--allow-writes")["errors"] == {}


def test_people_get_a_table(server: Served) -> None:
    run = bench(server.url, *SHORT[:-1], "--rate", 50)
    assert run.returncode == 0, run.stderr
    for word in ("requests/s", "p50 ms", "p99.9 ms", "errors", "none", "server CPU", "the generator"):
        assert word in run.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("http://192.0.2.1:8000",), ("another machine", "--allow-remote")),
        (("http://no.such.host.invalid",), ("unknown host",)),
        (("https://127.0.0.1:1",), ("not an address to load",)),
        (("http://127.0.0.1:1/docs",), ("not an address to load",)),
        (("http://127.0.0.1:1",), ("does not answer",)),
        (("no-such-folder",), ("no-such-folder",)),
        (("http://127.0.0.1:1", "--path", "/feedback"), ("--allow-writes",)),
        (("http://127.0.0.1:1", "--known-users", 2), ("--allow-writes",)),
        (("http://127.0.0.1:1", "--path", "/x"), ("$.path",)),
        (("http://127.0.0.1:1", "--rate", 0), ("$.rate",)),
        (("http://127.0.0.1:1", "--users", "no-such-file"), ("no-such-file",)),
    ],
)  # fmt: skip
def test_refusals(options: tuple[object, ...], words: tuple[str, ...]) -> None:
    run = bench(*options)
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    for word in words:
        assert word in run.stderr.replace("\n", " ")


def test_refused_loads_leave_no_trace(server: Served) -> None:
    before = httpx.get(f"{server.url}/metrics").text.count("/feedback")
    bench(server.url, "--path", "/feedback", *SHORT)
    assert httpx.get(f"{server.url}/metrics").text.count("/feedback") == before
