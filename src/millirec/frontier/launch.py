"""A real server for a measurement: `millirec serve` as a process of its own, on its own cores."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from millirec.data.errors import UnavailableError

ALLOCATOR = "MILLIREC_ALLOCATOR"
"""Names the allocator that a training command has preloaded for itself; see `cli.allocator`."""

_STOP_SECONDS = 40


class Running(msgspec.Struct, frozen=True):
    """A server that answers. The first five fields are its own ready line (`serve --json`).

    `start_seconds`: from the start of its process until it was ready to answer.
    """

    url: str
    model: str
    version: str
    data: str
    workers: int
    pid: int = 0
    start_seconds: float = 0.0


def free_cores() -> list[int]:
    """The cores that this process may use; none where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextmanager
def cores_apart(workers: int = 1, core: int | None = None) -> Iterator[tuple[set[int] | None, set[int] | None]]:
    """Cores for the server and for this process, which is pinned to its own meanwhile.

    `core`: the server's only core; None = the first ones. With one core, or where the system cannot pin, (None, None).
    """
    cores = free_cores()
    if len(cores) < 2:
        yield None, None
        return
    server = set(cores[: max(min(workers, len(cores) - 1), 1)]) if core is None else {core}
    own = {[other for other in cores if other not in server][-1]}
    try:
        os.sched_setaffinity(0, own)
        yield server, own
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def server(
    bundle: Path, workers: int = 1, cores: set[int] | None = None, options: Sequence[str] = ()
) -> Iterator[Running]:
    """`millirec serve BUNDLE` on a free loopback port with a data folder that is deleted afterwards.

    Raises UnavailableError when it does not come up; its own message stands on standard error.
    """
    with tempfile.TemporaryDirectory(prefix="millirec-bench-") as data:
        command = [sys.executable, "-m", "millirec", "serve", str(bundle), "--port", "0", "--json"]
        command += ["--data", data, "--workers", str(workers), "--yardstick"]
        command += ["--with-parent", str(os.getpid()), *options]
        began = time.perf_counter()
        process = _start(command, cores)
        try:
            line = process.stdout.readline() if process.stdout else b""
            if not line:
                raise UnavailableError(
                    f"the server for {bundle} did not start (exit code {process.wait()})",
                    "see its message above",
                )
            ready, seconds = msgspec.json.decode(line, type=Running), time.perf_counter() - began
            yield msgspec.structs.replace(ready, pid=process.pid, start_seconds=seconds)
        finally:
            _stop(process)


def _start(command: list[str], cores: set[int] | None) -> "subprocess.Popen[bytes]":
    """A child inherits its affinity: it is set here for the moment of the start."""
    own = os.sched_getaffinity(0) if cores else None
    try:
        if cores:
            os.sched_setaffinity(0, cores)
        return subprocess.Popen(command, stdout=subprocess.PIPE, env=_environment())  # noqa: S603 - our own command
    finally:
        if own:
            os.sched_setaffinity(0, own)


def _environment() -> dict[str, str]:
    """That of a server started by hand: an allocator that a training command has put before itself is left out."""
    environment = dict(os.environ)
    added = environment.pop(ALLOCATOR, None)
    preloaded = [name for name in environment.pop("LD_PRELOAD", "").split() if name != added]
    return environment | ({"LD_PRELOAD": " ".join(preloaded)} if preloaded else {})


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()
