"""Make the environment: .venv at the root, with the CPU build of torch. Needs nothing but Python 3.11 or newer.

    python3 scripts/setup.py [train] [dev] [serve]

Does nothing when the environment is already what the project's files ask for.
"""

import hashlib
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if sys.platform == "win32" else "bin")
PYTHON = BIN / ("python.exe" if sys.platform == "win32" else "python")
TORCH = "2.13.0"
# What the system may have to make things faster: command or library, package on Debian, what it is for.
HELPFUL = (
    ("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4", "faster training"),
    ("wrk", "wrk", "an independent load generator for benchmarks/serving.py"),
)


def main(extras: list[str]) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - said before anything newer is used
        sys.exit(f"setup: Python {platform.python_version()} is too old -> run with Python 3.11 or newer")
    stamp, wanted = VENV / ".millirec", _fingerprint(extras)
    if stamp.exists() and _satisfies(stamp.read_text(), wanted):
        return
    if not PYTHON.exists():
        print("setup: making .venv", flush=True)
        venv.create(VENV, with_pip=True, clear=VENV.exists())
    if "train" in extras:
        _install_torch()
    wish = f"{ROOT}[{','.join(extras)}]" if set(extras) - {"serve"} else str(ROOT)
    print(f"setup: installing millirec with {', '.join(extras)}", flush=True)
    _pip("install", "-q", "-c", str(ROOT / "constraints.txt"), "-e", wish.replace("serve,", ""))
    stamp.write_text(wanted)
    _name_what_is_missing()


def _fingerprint(extras: list[str]) -> str:
    files = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    return f"{hashlib.sha256(files).hexdigest()} {' '.join(sorted(extras))}"


def _satisfies(found: str, wanted: str) -> bool:
    """The same files, and at least the extras that are wanted."""
    (old, *had), (new, *asked) = found.split(), wanted.split()
    return old == new and set(asked) <= set(had)


def _install_torch() -> None:
    """The CPU build first, so that nothing later pulls gigabytes of CUDA packages."""
    if _has(f"import torch; assert torch.__version__.startswith('{TORCH}')"):
        return
    print(f"setup: installing torch {TORCH}", flush=True)
    if shutil.which("nvidia-smi") or sys.platform != "linux":
        _pip("install", "-q", f"torch=={TORCH}")
        return
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # Where pip's own configuration offers a CPU wheel it is taken; else uv knows where PyTorch keeps them.
    if subprocess.run([PYTHON, "-m", "pip", "install", "-q", f"torch=={TORCH}+cpu"], check=False, **quiet).returncode:
        _pip("install", "-q", "uv")
        uv = [str(BIN / "uv"), "pip", "install", "-q", "--python", str(PYTHON)]
        _run([*uv, "--torch-backend", "cpu", f"torch=={TORCH}"])


def _has(statement: str) -> bool:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.run([PYTHON, "-c", statement], check=False, **quiet).returncode == 0


def _pip(*arguments: str) -> None:
    _run([str(PYTHON), "-m", "pip", *arguments, "--disable-pip-version-check"])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.exit(f"setup: `{' '.join(command)}` failed -> see the message above; then run it again")


def _name_what_is_missing() -> None:
    if sys.platform != "linux":
        return
    import ctypes.util

    for name, package, use in HELPFUL:
        library = ctypes.util.find_library("tcmalloc_minimal") if name.startswith("lib") else shutil.which(name)
        if not library:
            print(f"setup: optional: {package} is not installed ({use})")


if __name__ == "__main__":
    main(sys.argv[1:] or ["train", "dev"])
