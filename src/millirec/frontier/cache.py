"""`Cache`: finished work by the hash of all that decides it, so that nothing is done twice and a kill costs little."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")

_HALF_MADE = re.compile(r"\..+\.([0-9a-f]{8}|new)")  # as `new_folder` and `write_whole` name them


def key_of(*parts: object) -> str:
    """A hash of plain data and structs, in this order."""
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:24]


def write_whole(path: Path, data: bytes) -> None:
    """A file that appears at once: a crash leaves the old one or the new one."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(data)
    new.replace(path)


class Cache:
    """Shelves of JSON files and of folders below `folder`, one entry a key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def place(self, shelf: str, key: str) -> Path:
        """Where a folder of this key belongs. The shelf is there; the folder is not made."""
        (self.folder / shelf).mkdir(exist_ok=True)
        return self.folder / shelf / key

    def has(self, shelf: str, key: str) -> bool:
        """Whether `kept` would only read."""
        return (self.folder / shelf / f"{key}.json").exists()

    def kept(self, kind: type[T], shelf: str, key: str, make: Callable[[], T]) -> T:
        """What was made under this key before, or what `make` gives now. An unreadable entry is made again."""
        path = self.place(shelf, key).with_suffix(".json")
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except (OSError, msgspec.MsgspecError):
            made = make()
        write_whole(path, msgspec.json.encode(made))
        return made

    def tidy(self) -> None:
        """Remove what a killed run has left half-made. Nobody else may be at work here."""
        for path in [path for path in self.folder.rglob(".*") if _HALF_MADE.fullmatch(path.name)]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
