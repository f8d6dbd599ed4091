"""`ImpressionLog`: what was shown to whom, as JSON lines, so that what came of it can be joined later.

Every process writes files of its own in one folder, `<milliseconds>-<pid>.jsonl`. Lines are handed over without
waiting and written and synced to the disk about once a second: a crash of the machine or the process loses at most
that second. Losing an impression costs one row of later training; it must never cost an answer.
"""

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from millirec.cascade.query import Ranking
from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.event import Context

log = logging.getLogger("millirec.impressions")
_encode = msgspec.json.Encoder().encode


class ImpressionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How impressions are kept.

    `flush_seconds`: how long lines wait for the disk at most. `max_pending`: lines that may wait; more are dropped, and
    counted. `file_mb`: a file is closed at this size. `keep_mb`: of all files in the folder; beyond, the oldest ones
    that nobody writes are deleted.
    """

    flush_seconds: float = 1.0
    max_pending: int = 100_000
    file_mb: float = 64.0
    keep_mb: float = 4096.0

    def __post_init__(self) -> None:
        for name in ("flush_seconds", "max_pending", "file_mb", "keep_mb"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"$.impressions.{name} = {getattr(self, name)}", "choose a number above 0")


class Impression(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One list as it was shown, best first.

    `time` in milliseconds since 1970-01-01 UTC. `propensities`: how probable each item was at its place, given those
    before it; all 1 when nothing was left to chance. `scores`: null for an item unknown to the model.
    `source`, `sources` and `stage` as in `Ranking`.
    """

    request_id: str
    time: int
    model: str
    model_version: str
    items: tuple[str, ...]
    scores: tuple[float | None, ...]
    propensities: tuple[float, ...]
    source: str
    stage: str | None = None
    sources: tuple[str, ...] | None = None
    user: str | None = None
    session: str | None = None
    context: Context | None = None

    @classmethod
    def of(cls, ranking: Ranking, k: int | None, model: tuple[str, str], **who: object) -> "Impression":
        """The first `k` of a ranking, by a model's name and version; `who`: user, session, context and time."""
        items = ranking.items[:k]
        drawn = ranking.propensities
        return cls(
            request_id=ranking.request_id or "",
            model=model[0],
            model_version=model[1],
            items=items,
            scores=ranking.scores[:k],
            propensities=(1.0,) * len(items) if drawn is None else drawn[:k],
            source=ranking.source,
            stage=ranking.stage,
            sources=None if ranking.sources is None else ranking.sources[:k],
            **who,  # type: ignore[arg-type]
        )


class ImpressionLog:
    """Takes impressions from one process; thread-safe. `dropped` counts those that found no room."""

    def __init__(self, folder: Path, settings: ImpressionSettings | None = None) -> None:
        """Raises ArtifactError when `folder` cannot be made or written."""
        self.folder, self.settings = folder, settings or ImpressionSettings()
        self.dropped = 0
        self._waiting: deque[Impression] = deque()
        self._closing = threading.Event()
        self._file: BinaryIO | None = None
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = self._open()
        except OSError as error:
            raise ArtifactError(
                f"{folder}: impressions cannot be written ({error.strerror})", "check path, rights and free space"
            ) from error
        self._thread = threading.Thread(target=self._run, name="millirec-impressions", daemon=True)
        self._thread.start()

    def note(self, impression: Impression) -> bool:
        """Hand one over; False when it was dropped because too many wait for the disk. Never waits."""
        if len(self._waiting) >= self.settings.max_pending or self._closing.is_set():
            self.dropped += 1
            return False
        self._waiting.append(impression)
        return True

    def close(self) -> None:
        """Write what is waiting. A second call does nothing."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(self.settings.flush_seconds):
            self._write_waiting()
        self._write_waiting()
        if self._file is not None:
            self._file.close()

    def _write_waiting(self) -> None:
        lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not lines:
            return
        try:
            if self._file is None:
                self._file = self._open()
            self._file.write(b"".join([_encode(line) + b"\n" for line in lines]))
            self._file.flush()
            os.fsync(self._file.fileno())
            if self._file.tell() >= self.settings.file_mb * 2**20:
                self._file.close()
                self._file = None
        except OSError as error:  # a full disk: answers go on, these lines are lost
            self.dropped += len(lines)
            self._abandon()
            log.error("%s: %d impressions were lost (%s)", self.folder, len(lines), error)

    def _abandon(self) -> None:
        """The next lines go to a new file: this one may end in half a line."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _open(self) -> BinaryIO:
        """A new file, locked for as long as it is written, after the oldest ones have made room for it."""
        self._make_room()
        now = time.time_ns() // 1_000_000
        while (path := self.folder / f"{now:013d}-{os.getpid()}.jsonl").exists():
            now += 1
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        fcntl.flock(file, fcntl.LOCK_EX)
        return file

    def _make_room(self) -> None:
        found = files(self.folder)
        sizes = [_size(path) for path in found]
        beyond = sum(sizes) + self.settings.file_mb * 2**20 - self.settings.keep_mb * 2**20
        for path, size in zip(found, sizes, strict=True):
            if beyond <= 0:
                return
            if size and _unlink(path):  # an empty file may be about to be locked
                beyond -= size


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # another process has made room
        return 0


def _unlink(path: Path) -> bool:
    """Delete a file unless somebody writes it."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except OSError:
        return False
    return True


def files(folder: Path) -> list[Path]:
    """The files of a folder of impressions, the oldest first."""
    return sorted(folder.glob("*.jsonl"))


def impressions(folder: Path) -> Iterator[Impression]:
    """What was shown, file by file, the oldest file first. A line that a crash cut off at a file's end is left out.

    Raises ArtifactError for another line that is no impression.
    """
    decode = msgspec.json.Decoder(Impression).decode
    for path in files(folder):
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    yield decode(line)
                except msgspec.DecodeError as error:
                    raise ArtifactError(f"{path}:{number}: no impression ({error})", "remove the line") from error
