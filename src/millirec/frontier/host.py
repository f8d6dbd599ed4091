"""`Host`: what the figures were measured on. No names of hosts or paths."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from millirec import __version__

_PACKAGES = ("torch", "numpy", "onnxruntime", "faiss-cpu", "lmdb", "msgspec", "starlette", "uvicorn", "uvloop")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """Processor, `cores` that this process may use, `caches` of a core (name -> size), memory, system, versions."""

    processor: str
    cores: int
    caches: dict[str, str]
    memory_gib: float
    kernel: str
    python: str
    millirec: str
    packages: dict[str, str]

    @classmethod
    def here(cls) -> "Host":
        """This machine."""
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        return cls(
            processor=_processor(),
            cores=len(cores),
            caches=_caches(),
            memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            kernel=f"{platform.system()} {platform.release()} {platform.machine()}",
            python=platform.python_version(),
            millirec=__version__,
            packages={name: _version(name) for name in _PACKAGES},
        )


def _processor() -> str:
    lines = _text(Path("/proc/cpuinfo")).splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _caches() -> dict[str, str]:
    """Such as {"L1 data": "32K", "L2": "1024K"}."""
    found = {}
    for index in sorted(_CACHES.glob("index*")):
        level, kind, size = (_text(index / name).strip() for name in ("level", "type", "size"))
        if level and size:
            found[f"L{level}" if kind == "Unified" else f"L{level} {kind.lower()}"] = size
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
