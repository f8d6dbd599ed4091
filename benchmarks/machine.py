"""What a figure was measured on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "onnxruntime", "faiss-cpu", "polars", "starlette", "uvicorn", "lmdb")


def describe(device: str = "cpu") -> dict[str, Any]:
    """Processor, cores, memory, accelerator, versions; no names of hosts or paths."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "device": _accelerator(device),
        "python": platform.python_version(),
        "allocator": "tcmalloc" if "tcmalloc" in os.environ.get("LD_PRELOAD", "") else "libc",
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in path.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _accelerator(device: str) -> str:
    """ "cpu", or the name of the card that torch calls `device`."""
    if device == "cpu":
        return device
    import torch  # a serving benchmark needs none

    return torch.cuda.get_device_name(device)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
