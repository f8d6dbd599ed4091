"""tcmalloc for training, where the system has it: large tensors come and go, and page faults cost up to 40 %."""

import ctypes.util
import os
import sys

from millirec.cli.console import note
from millirec.frontier.launch import ALLOCATOR


def use_fast_allocator() -> None:
    """Start this command again with tcmalloc preloaded, once, on Linux; say so when it is not installed."""
    if (
        not sys.platform.startswith("linux")
        or ALLOCATOR in os.environ
        or "tcmalloc" in os.environ.get("LD_PRELOAD", "")
    ):
        return
    library = ctypes.util.find_library("tcmalloc_minimal") or ctypes.util.find_library("tcmalloc")
    if library is None:
        note("[dim]tcmalloc is not installed; with it (Debian: libtcmalloc-minimal4) training is faster[/dim]")
        return
    preload = " ".join(filter(None, [os.environ.get("LD_PRELOAD"), library]))
    environment = os.environ | {"LD_PRELOAD": preload, ALLOCATOR: library}
    os.execve(sys.executable, [sys.executable, "-m", "millirec", *sys.argv[1:]], environment)  # noqa: S606
