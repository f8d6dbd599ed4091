"""A server that is tied to whoever started it."""

import subprocess
import sys

import pytest

PROGRAM = "import sys; from millirec.server.tether import tie_to_parent; tie_to_parent(int(sys.argv[1])); print('ties')"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_a_parent_that_went_before_the_tie_is_noticed() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    run = subprocess.run([sys.executable, "-c", PROGRAM, str(gone.pid)], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_a_child_of_a_killed_parent_ends() -> None:
    child = f"{PROGRAM}; import time; sys.stdout.flush(); time.sleep(60)"
    parent = (
        "import os, subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}, str(os.getpid())])\n"
        "import time; time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ties\n"
        process.kill()
        assert process.stdout.read() == ""  # ends when the child, which holds the pipe too, is gone
