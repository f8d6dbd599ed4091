"""CPU and memory of a process and its children, read from /proc."""

import os
from pathlib import Path

import msgspec

_PROC = Path("/proc")


class Usage(msgspec.Struct, frozen=True):
    """Of all processes together: CPU seconds, share of one core, resident and (where known) proportional memory.

    `rss_mb` counts pages that workers share once for each of them; `pss_mb` divides them.
    """

    cpu_seconds: float
    cpu: float
    rss_mb: float
    pss_mb: float | None
    processes: int


class ProcessTree:
    """A process and all its descendants. Processes that are gone count nothing."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    @classmethod
    def known(cls, pid: int) -> "ProcessTree | None":
        """The tree, or None where /proc does not show it."""
        return cls(pid) if (_PROC / str(pid) / "stat").is_file() else None

    def pids(self) -> list[int]:
        """The process and its descendants, living ones."""
        children: dict[int, list[int]] = {}
        for entry in _PROC.iterdir():
            if entry.name.isdigit() and (stat := _stat(int(entry.name))):
                children.setdefault(int(stat[1]), []).append(int(entry.name))
        out, waiting = [], [self.pid]
        while waiting:
            pid = waiting.pop()
            out.append(pid)
            waiting += children.get(pid, [])
        return out

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        ticks = [int(stat[11]) + int(stat[12]) for pid in self.pids() if (stat := _stat(pid))]
        return sum(ticks) / os.sysconf("SC_CLK_TCK")

    def usage(self, cpu_before: float, seconds: float) -> Usage:
        """What was used since `cpu_before` was read, `seconds` ago, and the memory now."""
        pids = self.pids()
        used = self.cpu_seconds() - cpu_before
        rss = sum(_kilobytes(pid, "status", "VmRSS:") or 0.0 for pid in pids) / 1024
        shares = [_kilobytes(pid, "smaps_rollup", "Pss:") for pid in pids]
        pss = None if None in shares else round(sum(share or 0.0 for share in shares) / 1024, 1)
        return Usage(round(used, 2), round(used / seconds, 3), round(rss, 1), pss, len(pids))


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent, ..."""
    try:
        return (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _kilobytes(pid: int, file: str, label: str) -> float | None:
    try:
        lines = (_PROC / str(pid) / file).read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) for line in lines if line.startswith(label)), None)
