"""A tie between a server and whoever started it."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def tie_to_parent(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent process is gone, however it went. Linux only; elsewhere nothing.

    `parent`: its id, as it told itself: it may be gone before this is called. prctl(2), PR_SET_PDEATHSIG.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it went before the call
        sys.exit(0)
