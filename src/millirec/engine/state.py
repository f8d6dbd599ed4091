"""`StateStore`: the durable log and the state of every user, in one LMDB folder that worker processes share.

LMDB (Howard Chu's memory-mapped B+ tree, copy on write, one writer at a time across processes) gives readers
snapshots without locks and survives a killed process. Its named databases:

    log      8-byte big-endian sequence -> msgpack of the tagged Record: the event log that training reads
    state    `state_key` -> 8 bytes "touched" (ms) + History.to_bytes(); "i" + `state_key` -> the same of what was shown
    items    "i" + id -> code, "c" + code -> id: append-only, so that histories outlive any vocabulary
    fields   "i" + item or "u" + user -> newest fields, "v" + version -> item: what changed since a version
    meta     schema, counters
"""

import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import lmdb
import msgspec

from millirec.data.errors import ArtifactError, ConfigError, DataError, UnavailableError
from millirec.data.event import Record
from millirec.data.history import History, HistoryLimits
from millirec.engine.ledger import Counters, Entry, Ledger, Rules, Update, encoded, open_tables

T = TypeVar("T")

_GROUP = 10_000
AT_ONCE = 4_096
_REMEMBERED = 1_000_000


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a store.

    `expire_after_days`: a state that was not touched for so long counts as empty. `max_pending`: records that may
    wait for the disk; more are refused. `map_bytes`: address space reserved at first; it grows by itself. `sync`:
    whether a commit waits for the disk.
    """

    limits: HistoryLimits = HistoryLimits()
    expire_after_days: float | None = None
    max_pending: int = 100_000
    map_bytes: int = 64 << 30
    sync: bool = True

    def __post_init__(self) -> None:
        if self.expire_after_days is not None and self.expire_after_days <= 0:
            raise ConfigError(f"$.expire_after_days = {self.expire_after_days}", "choose a number above 0")
        for name, least in (("max_pending", 1), ("map_bytes", 1 << 20)):
            if getattr(self, name) < least:
                raise ConfigError(f"$.{name} = {getattr(self, name)}", f"choose at least {least}")
        if min(self.limits.window, self.limits.seen) < 1:
            raise ConfigError("$.limits: `window` and `seen` must be at least 1")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one read transaction saw: all of it belongs together.

    `names`: ids of the item codes from the asked one on. `updates`: newest fields of items changed after the
    asked version. `entries`: the log from the asked sequence on, at most `AT_ONCE` of it.
    """

    histories: list[History]
    counters: Counters
    names: list[str]
    updates: list[Update]
    entries: list[Entry]


def _clock() -> int:
    return int(time.time() * 1000)


class StateStore:
    """An open store; thread-safe, one object a process. `temporary` makes one for a replay.

    Writers join in a group commit: whoever commits takes everything that is waiting, in one transaction, so an
    acknowledged record is on the disk and visible to every process. Open it after a fork, never before.
    """

    def __init__(
        self,
        folder: Path,
        settings: StoreSettings | None = None,
        *,
        read_only: bool = False,
        clock: Callable[[], int] = _clock,
    ) -> None:
        """The store in `folder`, made when missing (unless `read_only`). `clock` tells the time in ms, for expiry.

        Raises ArtifactError when it is damaged, of another version, or missing and `read_only`.
        """
        settings = settings or StoreSettings()
        self.folder, self.settings, self.read_only = folder, settings, read_only
        self.clock = clock
        days = settings.expire_after_days
        self._rules = Rules(settings.limits, 0 if days is None else int(days * 86_400_000))
        self._pid = os.getpid()
        self._env = _environment(folder, settings, read_only)
        try:
            self._tables = open_tables(self._env, read_only=read_only)
        except lmdb.Error as error:
            self._env.close()
            raise ArtifactError(f"{folder}: not a data folder ({error})", "check the path") from error
        except ArtifactError:
            self._env.close()
            raise
        self._queue: deque[tuple[Sequence[tuple[Record, bytes]], Future[int]]] = deque()
        self._waiting = 0
        self._codes: dict[str, int] = {}
        # Lock order: _writing, then _gate. `_gate` is held while a reader looks at the map, and to resize it.
        self._queueing, self._writing, self._gate = threading.Lock(), threading.Lock(), threading.Lock()
        self._wake, self._temporary = threading.Event(), False
        self._closed = self._shut = False  # no more records; no more reading either
        self._committer = threading.Thread(target=self._run, name="millirec-commit", daemon=True)
        if not read_only:
            self._committer.start()

    @classmethod
    def temporary(cls, settings: StoreSettings | None = None) -> "StateStore":
        """A store for an offline replay: the same code, a folder that is deleted on `close`, no waiting for a disk."""
        settings = msgspec.structs.replace(settings or StoreSettings(), sync=False)
        store = cls(Path(tempfile.mkdtemp(prefix="millirec-")), settings)
        store._temporary = True
        return store

    def __enter__(self) -> "StateStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Commit what is waiting and close. A second call does nothing."""
        with self._queueing:
            if self._closed:
                return
            self._closed = True
        self._wake.set()
        if not self.read_only:
            self._committer.join()
        with self._writing, self._gate:
            self._shut = True
            self._env.close()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- reading ---------------------------------------------------------------------------------------------

    def read(
        self, keys: Sequence[bytes], first_code: int = 1, after_version: int = 0, entries_from: int | None = None
    ) -> Snapshot:
        """The histories of `keys` and what is new since `first_code` and `after_version`, from one transaction.

        `entries_from`: the sequence from which on records of the log are wanted, None = none.
        """
        now = self.clock() if self._rules.expire_ms else 0

        def look(ledger: Ledger) -> Snapshot:
            counters = ledger.counters()
            return Snapshot(
                [ledger.history(key, self._rules, now) for key in keys],
                counters,
                ledger.names(first_code, counters.codes) if first_code <= counters.codes else [],
                ledger.updates(after_version) if after_version < counters.version else [],
                ledger.records(entries_from, AT_ONCE)
                if entries_from is not None and entries_from < counters.records
                else [],
            )

        return self._look(look)

    def history(self, key: bytes) -> History:
        """What is known of one `state_key` now; items are codes of this store, see `names`."""
        return self.read([key], first_code=1 << 62, after_version=1 << 62).histories[0]

    def names(self) -> list[str]:
        """The ids of all item codes, code 1 first."""
        return self.read([], after_version=1 << 62).names

    def records(self, start: int = 0) -> Iterator[tuple[int, Record]]:
        """The log from sequence `start` on, in the order of commits. Reads in short transactions."""
        while True:
            chunk = self._look(lambda ledger, at=start: ledger.records(at, AT_ONCE))  # type: ignore[misc]
            yield from chunk
            if len(chunk) < AT_ONCE:
                return
            start = chunk[-1][0] + 1

    def _look(self, look: Callable[[Ledger], T]) -> T:
        self._check()
        while True:
            try:
                with self._gate:
                    self._check_open()
                    with self._env.begin() as txn:
                        return look(Ledger(txn, self._tables))
            except lmdb.MapResizedError:
                with self._writing, self._gate:
                    self._env.set_mapsize(0)

    # -- writing ---------------------------------------------------------------------------------------------

    def submit(self, records: Sequence[Record]) -> Future[int]:
        """Hand records over; the future resolves to their number once they are durable and visible.

        Raises UnavailableError when too many are waiting. The future fails with UnavailableError when the disk does.
        """
        future = self._enqueue(records)
        self._wake.set()
        return future

    def append(self, records: Sequence[Record]) -> int:
        """Like `submit`, and returns when they are durable. Commits in the calling thread when nobody else does."""
        future = self._enqueue(records)
        with self._writing:
            while not future.done():
                self._commit_waiting()
        return future.result()

    def sweep(self) -> int:
        """Delete states that have expired; returns how many. Meant for now and then, from one process."""
        if not self._rules.expire_ms:
            return 0
        after: bytes | None = b""
        total = 0
        while after is not None:
            self._check()
            with self._writing:
                self._check_open()
                with self._begin() as txn:
                    after, n = Ledger(txn, self._tables).sweep(after, 1000, self._rules, self.clock())
            total += n
        return total

    def _enqueue(self, records: Sequence[Record]) -> Future[int]:
        self._check()
        if self.read_only:
            raise UnavailableError(f"{self.folder}: opened for reading only", "open it for writing")
        try:
            lines = list(encoded(records))
        except UnicodeEncodeError as error:
            raise DataError(f"record: text that is not Unicode ({error.reason})", "send valid UTF-8") from error
        future: Future[int] = Future()
        future.set_running_or_notify_cancel()  # a caller that goes away does not take its records back
        with self._queueing:
            if self._closed:
                raise _closed()
            if self._waiting + len(lines) > self.settings.max_pending:
                raise UnavailableError(
                    f"{self._waiting} records are waiting for the disk, {len(lines)} more exceed "
                    f"max_pending = {self.settings.max_pending}",
                    "send fewer, or send them again later",
                )
            self._waiting += len(lines)
            self._queue.append((lines, future))
        return future

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            with self._writing:
                while self._queue:
                    self._commit_waiting()
            if self._closed and not self._queue:
                return

    def _commit_waiting(self) -> None:
        """Commit a group of what is waiting and resolve its futures. Holds `_writing`."""
        group: list[tuple[Sequence[tuple[Record, bytes]], Future[int]]] = []
        n = 0
        with self._queueing:
            while self._queue and n < _GROUP:
                group.append(self._queue.popleft())
                n += len(group[-1][0])
        try:
            self._commit([line for lines, _ in group for line in lines])
        except Exception as error:
            failure = _failure(self.folder, error)
            for _, future in group:
                future.set_exception(failure)
        else:
            for lines, future in group:
                future.set_result(len(lines))
        finally:
            with self._queueing:
                self._waiting -= n

    def _commit(self, lines: list[tuple[Record, bytes]]) -> None:
        while lines:
            try:
                with self._begin() as txn:
                    fresh = Ledger(txn, self._tables).apply(lines, self._rules, self.clock(), self._codes)
            except lmdb.MapFullError:
                with self._gate:
                    self._env.set_mapsize(self._env.info()["map_size"] * 2)
                continue
            if len(self._codes) > _REMEMBERED:
                self._codes.clear()
            self._codes.update(fresh)  # only now: codes of a transaction that failed do not exist
            return

    def _begin(self) -> Any:
        """A write transaction. Holds `_writing`."""
        while True:
            try:
                return self._env.begin(write=True)
            except lmdb.MapResizedError:
                with self._gate:
                    self._env.set_mapsize(0)

    def _check_open(self) -> None:
        if self._shut:
            raise _closed()

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError("a StateStore does not survive a fork: open it in the worker process")


def _environment(folder: Path, settings: StoreSettings, read_only: bool) -> Any:
    if read_only and not (folder / "data.mdb").is_file():
        raise ArtifactError(f"{folder}: no data folder of millirec", "check the path")
    try:
        if not read_only:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        env = lmdb.open(
            str(folder),
            map_size=settings.map_bytes,
            readonly=read_only,
            create=not read_only,
            mode=0o600,
            max_dbs=8,
            max_readers=512,
            max_spare_txns=8,
            sync=settings.sync,
            metasync=settings.sync,
        )
        env.reader_check()  # slots of killed readers would keep old pages alive
    except (lmdb.Error, OSError) as error:
        raise ArtifactError(
            f"{folder}: cannot be opened as a data folder ({error})", "check path, rights and free space"
        ) from error
    if not read_only:
        _sync_folder(folder)
    return env


def _sync_folder(folder: Path) -> None:
    """Make the new files' names durable too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _closed() -> UnavailableError:
    return UnavailableError("the state store is closed", "send it again after the restart")


def _failure(folder: Path, error: Exception) -> Exception:
    if not isinstance(error, lmdb.Error | OSError):
        return error
    free = shutil.disk_usage(folder).free >> 20
    return UnavailableError(
        f"{folder}: nothing was written ({error}; {free} MiB free)",
        "free space on the disk, then send it again",
    )
