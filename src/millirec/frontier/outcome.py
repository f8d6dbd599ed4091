"""What a frontier leaves behind: frontier.json, report.html, and the bundle that was chosen or comes nearest."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from millirec.bundle import Bundle, open_bundle
from millirec.data.errors import ConfigError
from millirec.data.folder import new_folder
from millirec.engine.settings import EngineSettings
from millirec.frontier.cache import write_whole
from millirec.frontier.report import page
from millirec.frontier.result import Frontier

CHOSEN, NEAREST = "chosen", "nearest"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Nobody else works in `folder` meanwhile. Raises ConfigError when somebody does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{folder}: another run works there", "wait for it, or choose another $.name") from error
        yield


def leave(found: Frontier, bundle: Bundle, engine: EngineSettings, folder: Path) -> Path:
    """Write everything below `folder`. `bundle` and `engine`: those of the chosen variant, or of the nearest.

    The other of the two folders, left by an earlier run, is removed. Returns the folder of the bundle.
    """
    name, other = (CHOSEN, NEAREST) if found.choice.chosen else (NEAREST, CHOSEN)
    place = folder / name
    with new_folder(place) as new:
        shutil.copytree(bundle.folder, new, dirs_exist_ok=True)
        open_bundle(new)
    shutil.rmtree(folder / other, ignore_errors=True)
    settings = folder / "engine.toml"
    if engine == EngineSettings():
        settings.unlink(missing_ok=True)
    else:
        write_whole(settings, engine.toml().encode())
    best = found.choice.chosen or found.choice.nearest
    entry = next(entry for entry in found.variants if entry.figures.name == best)
    write_whole(folder / "best.toml", entry.config.encode())
    write_whole(folder / "frontier.json", msgspec.json.format(msgspec.json.encode(found), indent=1))
    write_whole(folder / "report.html", page(found).encode())
    return place
