"""A server that is started for a measurement: its environment, and its end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from millirec.frontier import launch
from millirec.frontier.launch import ALLOCATOR, cores_apart, free_cores
from millirec.frontier.processes import ProcessTree

_STARTER = """
import sys
from pathlib import Path
from millirec.frontier.launch import server
with server(Path(sys.argv[1])) as running:
    print(running.pid, running.start_seconds, flush=True)
    sys.stdin.read()
"""
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "v1" / "bundle"


def test_a_server_does_not_outlive_a_killed_starter() -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", _STARTER, str(GOLDEN)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    pid, seconds = starter.stdout.readline().split()
    assert 0.1 < float(seconds) < 60
    server = int(pid)
    assert ProcessTree.known(server)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    for stream in (starter.stdin, starter.stdout):
        stream.close()
    deadline = time.monotonic() + 20
    while _alive(server):
        assert time.monotonic() < deadline, "the server is still there"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_the_allocator_of_a_training_command_is_not_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOCATOR, "libtcmalloc.so")
    monkeypatch.setenv("LD_PRELOAD", "own.so libtcmalloc.so")
    found = launch._environment()
    assert found["LD_PRELOAD"] == "own.so"
    assert ALLOCATOR not in found
    monkeypatch.setenv("LD_PRELOAD", "libtcmalloc.so")
    assert "LD_PRELOAD" not in launch._environment()


@pytest.mark.skipif(len(free_cores()) < 2, reason="needs two cores")
def test_a_core_of_ones_own() -> None:
    before = os.sched_getaffinity(0)
    last = max(before)
    with cores_apart(1, last) as (server, own):
        assert server == {last}
        assert own == os.sched_getaffinity(0) != server
    assert os.sched_getaffinity(0) == before
