"""`millirec serve` as people start it: its one line, its exit codes, its refusals, and what it does without torch."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.bundles import tiny_bundle
from tests.serving import ask, event, served


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


def serve(*options: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run until it ends by itself."""
    command = [sys.executable, "-m", "millirec", "serve", *map(str, options)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def refused(run: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2 and a clear message; no stack trace."""
    assert run.returncode == 2, run.stderr
    assert run.stdout == ""
    assert "Traceback" not in run.stderr
    for word in words:
        assert word in run.stderr


def test_one_line_when_ready_and_exit_code_0(bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "millirec", "serve", str(bundle), "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        line = run.stdout.readline()
        found = re.match(
            r"serving tiny [0-9a-f]{12} at (http://127\.0\.0\.1:\d+)  \(docs: \S+/docs, data: (\S+)\)", line
        )
        assert found, line
        assert httpx.get(f"{found[1]}/health/ready").status_code == 200
        run.send_signal(signal.SIGTERM)
        rest, errors = run.communicate(timeout=30)
    assert (run.returncode, rest, errors) == (0, "", "")
    # The data folder lies where it says, next to where it runs.
    assert Path(found[2]) == tmp_path / "millirec-data"
    assert (tmp_path / "millirec-data" / "data.mdb").is_file()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_taken_port(bundle: Path, tmp_path: Path, taken: int, workers: int) -> None:
    run = serve(bundle, "--port", taken, "--workers", workers, cwd=tmp_path)
    refused(run, f"127.0.0.1:{taken}", "--port")


def test_workers_do_not_share_a_port_with_another_server(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path / "first", "--workers", "2") as first:
        refused(serve(bundle, "--port", first.port, "--workers", 2, cwd=tmp_path), str(first.port))


def test_bundles_that_cannot_be_opened(bundle: Path, tmp_path: Path) -> None:
    refused(serve(tmp_path / "nowhere", cwd=tmp_path), "nowhere", "millirec pack")
    (tmp_path / "empty").mkdir()
    refused(serve(tmp_path / "empty", "--port", 0, cwd=tmp_path), "manifest.json")
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    with (broken / "tensors.safetensors").open("r+b") as file:
        file.seek(100)
        file.write(b"\0\1")
    for workers in (1, 2):
        run = serve(broken, "--port", 0, "--workers", workers, cwd=tmp_path)
        refused(run, "tensors.safetensors", "SHA-256")


def test_settings_that_cannot_work(bundle: Path, tmp_path: Path) -> None:
    refused(serve(bundle, "--workers", 0, cwd=tmp_path), "$.workers = 0")
    refused(serve(bundle, "--port", 70_000, cwd=tmp_path), "$.port = 70000")
    refused(serve(bundle, "--port", 0, "--host", "no.such.host.invalid", cwd=tmp_path), "no.such.host.invalid")
    (tmp_path / "file").write_text("x")
    refused(serve(bundle, "--port", 0, "--data", tmp_path / "file", cwd=tmp_path), "file")


def test_serving_needs_neither_torch_nor_polars_nor_scipy(bundle: Path, tmp_path: Path) -> None:
    """These packages stand first on the path and cannot be imported; so nothing imports them, not even lazily."""
    for name in ("torch", "polars", "scipy", "onnx", "tensorboard"):
        package = tmp_path / "blocked" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise ImportError(f'{__name__} is blocked')")
    path = os.pathsep.join([str(tmp_path / "blocked"), str(Path("src").resolve())])
    for workers in ("1", "2"):
        with (
            served(bundle, tmp_path / workers, "--workers", workers, environment={"PYTHONPATH": path}) as server,
            httpx.Client(base_url=server.url) as client,
        ):
            ask(client, "/feedback", event("u", "i1"))
            assert len(ask(client, "/recommend", {"user": "u"})["items"]) == 10
            assert ask(client, "/rank", {"items": ["i1"], "candidates": ["i2"]})["items"]
            for address in ("/items/i1/similar", "/metrics", "/openapi.json", "/docs"):
                assert client.get(address).status_code == 200


def test_the_state_outlives_the_server(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path) as server, httpx.Client(base_url=server.url) as client:
        ask(client, "/feedback", event("u", "i9"))
        expected = ask(client, "/recommend", {"user": "u"})["items"]
        server.process.kill()
    with served(bundle, tmp_path) as server, httpx.Client(base_url=server.url) as client:
        assert ask(client, "/recommend", {"user": "u"})["items"] == expected


def test_the_access_log_is_off_unless_asked_for(bundle: Path, tmp_path: Path) -> None:
    for options, lines in (((), 0), (("--access-log",), 1)):
        folder = tmp_path / str(lines)
        with served(bundle, folder, *options) as server:
            assert httpx.post(f"{server.url}/recommend", json={}).status_code == 200
            assert server.stop() == 0
            assert server.errors.read_text().count("POST /recommend") == lines


def test_a_request_in_flight_ends_before_the_server_does(bundle: Path, tmp_path: Path) -> None:
    """The body comes only after the signal to stop; the answer comes all the same, and says that the line closes."""
    body = json.dumps({"items": ["i1"], "k": 3}).encode()
    head = b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    with (
        served(bundle, tmp_path) as server,
        closing(socket.create_connection(("127.0.0.1", server.port), timeout=20)) as sock,
    ):
        sock.sendall(head + body[:5])
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        sock.sendall(body[5:])
        said = b""
        while chunk := sock.recv(65_536):
            said += chunk
        assert said.startswith(b"HTTP/1.1 200 OK")
        assert said.count(b'"score"') == 3
        assert server.process.wait(20) == 0
