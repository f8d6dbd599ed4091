"""Real servers for tests: `millirec serve` as a process on a free loopback port."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx


@dataclass
class Served:
    """A running server: where it answers, its process, what it wrote to standard error, where its data is."""

    url: str
    process: subprocess.Popen[bytes]
    errors: Path
    data: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop; returns its exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)


@contextmanager
def served(bundle: Path, folder: Path, *options: str, environment: dict[str, str] | None = None) -> Iterator[Served]:
    """A server for `bundle` with its data and its error log below `folder`; killed at the end if still running."""
    folder.mkdir(parents=True, exist_ok=True)
    errors, data = folder / "errors.log", folder / "data"
    command = [sys.executable, "-m", "millirec", "serve", str(bundle), "--port", "0", "--json"]
    command += ["--data", str(data), *options]
    with errors.open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=os.environ | (environment or {}))
    try:
        line = process.stdout.readline()
        assert line, f"no ready line; standard error says:\n{errors.read_text()}"
        yield Served(json.loads(line)["url"], process, errors, data)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close()


def ask(client: httpx.Client, path: str, body: object, status: int = 200) -> dict:
    """POST a JSON body, check the status, return the JSON answer."""
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def event(user: str, item: str, **more: object) -> dict[str, object]:
    return {"event": "interaction", "user": user, "item": item, **more}
