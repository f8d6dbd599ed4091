"""`save_compact` and `load_compact`: a `Dataset` in a folder, in few bytes.

log.json     what is in it: counts, the form of every column, size and SHA-256 of each file
events.bin   roles, users, items, times, values: a column behind the other, in file order
items.bin    ids and features of the items; users.bin likewise
"""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.catalog import Catalog
from millirec.data.compact.features import CatalogColumns
from millirec.data.compact.floats import Floats
from millirec.data.compact.packing import Ints, Reader, Writer
from millirec.data.compact.rows import RowColumn, read_rows, rows_of
from millirec.data.compact.times import TimeColumn, times_of
from millirec.data.dataset import CONTEXT, Dataset, Interactions
from millirec.data.errors import ArtifactError, DataError, MillirecError
from millirec.data.folder import new_folder, settle

HEAD = "log.json"
FORMAT = "millirec-compact-log"
SCHEMA = 1
_FILES = ("events.bin", "items.bin", "users.bin")
_AGAIN = "copy the folder again, or compress the log again"


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Size and hash of one file."""

    bytes: int
    sha256: str


class EventColumns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`count` events: how each column is kept, in the order of the file."""

    count: int
    roles: Ints
    users: RowColumn
    items: RowColumn
    times: TimeColumn
    values: Floats | None

    @classmethod
    def of(cls, dataset: Dataset, parts: Writer) -> "EventColumns":
        """Write them."""
        log = dataset.interactions
        return cls(
            count=len(log),
            roles=Ints.of(dataset.roles, parts),
            users=rows_of(log.users, len(dataset.users), parts),
            items=rows_of(log.items, len(dataset.items), parts),
            times=times_of(log.times, log.users, parts),
            values=None if log.values is None else Floats.of(log.values, parts),
        )

    def read(self, items: Catalog, users: Catalog, parts: Reader) -> tuple[Interactions, NDArray[np.uint8]]:
        """The log and the roles."""
        roles = self.roles.read(parts, self.count)
        if len(roles) and not 0 <= roles.min() <= roles.max() <= CONTEXT:
            raise ValueError("an unknown role")
        user_rows = read_rows(self.users, len(users), self.count, parts)
        item_rows = read_rows(self.items, len(items), self.count, parts)
        times = self.times.read(user_rows, len(users), parts)
        values = None if self.values is None else self.values.read(self.count, parts)
        return Interactions(user_rows, item_rows, times, values), roles.astype(np.uint8)


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in `log.json`. `seal` is the hash of all the rest."""

    format: str = FORMAT
    schema: int = SCHEMA
    name: str
    protocol: str
    timed: bool
    events: EventColumns
    items: CatalogColumns
    users: CatalogColumns
    files: dict[str, FileEntry]
    seal: str = ""

    def sealed(self) -> "Head":
        """With its seal."""
        bare = msgspec.json.encode(msgspec.structs.replace(self, seal=""), order="sorted")
        return msgspec.structs.replace(self, seal=hashlib.sha256(bare).hexdigest())


def save_compact(dataset: Dataset, folder: Path) -> Head:
    """Write a data set; an older compact log in its place is replaced.

    Raises DataError when something else is there, an event has a row that no catalogue knows, or the log holds what was
    shown.
    """
    check_place(folder)
    if dataset.interactions.shown is not None:
        raise DataError(f"{dataset.name}: a log of impressions", "compress the event log (kind = 'log')")
    for what, rows, n in _rows(dataset):
        if len(rows) and not 1 <= rows.min() <= rows.max() <= n:
            raise DataError(f"{dataset.name}: an event's {what} row is not in 1..{n}", "mend the data set")
    writers = {name: Writer() for name in _FILES}
    events = EventColumns.of(dataset, writers["events.bin"])
    items = CatalogColumns.of(dataset.items, writers["items.bin"])
    users = CatalogColumns.of(dataset.users, writers["users.bin"])
    files = {name: writer.data() for name, writer in writers.items()}
    head = Head(
        name=dataset.name,
        protocol=dataset.protocol,
        timed=dataset.timed,
        events=events,
        items=items,
        users=users,
        files={
            name: FileEntry(bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in files.items()
        },
    ).sealed()
    with new_folder(folder) as new:
        for name, data in files.items():
            (new / name).write_bytes(data)
        (new / HEAD).write_bytes(msgspec.json.encode(head))
    return head


def check_place(folder: Path) -> None:
    """Raises DataError when something stands there that is not to be replaced: no compact log, no empty folder."""
    if folder.exists() and not is_compact(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise DataError(f"{folder}: exists and is no compact log", "choose another folder")


def load_compact(folder: Path) -> Dataset:
    """The data set, bit for bit, with its split if it had one.

    Raises ArtifactError when a file is missing, damaged or changed, and for another version.
    """
    settle(folder)
    head = read_head(folder)
    try:
        parts = {name: Reader(_mapped(folder / name, head.files[name])) for name in _FILES}
        items, users = head.items.read(parts["items.bin"]), head.users.read(parts["users.bin"])
        log, roles = head.events.read(items, users, parts["events.bin"])
    except ArtifactError:
        raise
    except (OSError, ValueError, MillirecError) as error:
        raise ArtifactError(f"{folder}: not a readable compact log ({error})", _AGAIN) from error
    return Dataset(log, items, users, roles, head.name, head.protocol, timed=head.timed)


def is_compact(folder: Path) -> bool:
    """Does the folder hold a compact log, of whatever version, whole or damaged?"""
    try:
        with (folder / HEAD).open("rb") as file:
            return FORMAT.encode() in file.read(1 << 10)
    except OSError:
        return False


def read_head(folder: Path) -> Head:
    """What `log.json` says. Raises ArtifactError when it is missing, damaged or of another version."""
    path = folder / HEAD
    try:
        raw = msgspec.json.decode(path.read_bytes())
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise ArtifactError(f"{path}: not the head of a compact log", "give what `millirec data compress` wrote")
        if raw.get("schema") != SCHEMA:
            raise ArtifactError(
                f"{path}: schema {raw.get('schema')}, this version of millirec reads {SCHEMA}", "compress the log again"
            )
        head = msgspec.convert(raw, Head)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: missing", "give the folder that `millirec data compress` wrote") from error
    except (OSError, UnicodeDecodeError, RecursionError, msgspec.MsgspecError) as error:
        raise ArtifactError(f"{path}: damaged ({error})", _AGAIN) from error
    if head != head.sealed():
        raise ArtifactError(f"{path}: was changed after it was written (its seal does not fit)", _AGAIN)
    if set(head.files) != set(_FILES):
        raise ArtifactError(f"{path}: names the files {sorted(head.files)}, expected {sorted(_FILES)}", _AGAIN)
    return head


def _rows(dataset: Dataset) -> tuple[tuple[str, NDArray[np.int32], int], ...]:
    log = dataset.interactions
    return ("user", log.users, len(dataset.users)), ("item", log.items, len(dataset.items))


def _mapped(path: Path, entry: FileEntry) -> NDArray[Any]:
    """The bytes of a file, mapped into memory, after their hash has been checked."""
    size = path.stat().st_size
    if size != entry.bytes:
        raise ArtifactError(f"{path}: {size:,} bytes, {entry.bytes:,} expected", _AGAIN)
    data = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
    if hashlib.sha256(data.data).hexdigest() != entry.sha256:
        raise ArtifactError(f"{path}: damaged (its hash does not fit)", _AGAIN)
    return data
