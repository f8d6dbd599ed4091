"""`Ledger`: what one transaction of the state store reads and writes. The layout is told in `state.py`."""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from millirec.data.errors import ArtifactError
from millirec.data.event import Event, Fields, ItemUpdate, Record
from millirec.data.history import History, HistoryLimits

SCHEMA = b"1"
TABLES = ("log", "state", "items", "fields", "meta")

_COUNTERS = struct.Struct("<QQQ")
_SEQUENCE = struct.Struct(">Q")
_CODE = struct.Struct(">I")
_TOUCHED = struct.Struct("<q")
_SHOWN = HistoryLimits(window=1_024, seen=1)
_pack = msgspec.msgpack.Encoder().encode
_unpack_record = msgspec.msgpack.Decoder(Record).decode


class Counters(NamedTuple):
    """How far the store has come: `records` in the log, item `codes` given out (1..codes), `version` of fields."""

    records: int = 0
    codes: int = 0
    version: int = 0


class Update(NamedTuple):
    """The newest fields of an item."""

    item: str
    fields: Fields


Entry = tuple[int, Record]
"""A record of the log with its sequence."""


class Kept(msgspec.Struct, frozen=True):
    """The fields of an item or a user as stored, with the version at which they last changed."""

    name: str
    version: int
    fields: Fields


_unpack_kept = msgspec.msgpack.Decoder(Kept).decode


class Rules(NamedTuple):
    """How states are kept: limits, and the age (ms) beyond which a state counts as empty; 0 = never."""

    limits: HistoryLimits
    expire_ms: int


def text_key(prefix: bytes, name: str) -> bytes:
    """A key for a name of any length: LMDB takes 511 bytes, longer names are hashed."""
    key = prefix + name.encode()
    return key if len(key) <= 200 else prefix + b"#" + hashlib.sha256(key).hexdigest().encode()


class Ledger:
    """One open transaction. `tables` maps the names in `TABLES` to LMDB database handles."""

    __slots__ = ("_tables", "_txn")

    def __init__(self, txn: Any, tables: dict[str, Any]) -> None:
        self._txn, self._tables = txn, tables

    # -- reading ---------------------------------------------------------------------------------------------

    def counters(self) -> Counters:
        """The counters as of this transaction."""
        raw = self._txn.get(b"counters", db=self._tables["meta"])
        return Counters(*_COUNTERS.unpack(raw)) if raw else Counters()

    def history(self, key: bytes, rules: Rules, now: int) -> History:
        """What is known of a key; empty when nothing is, or when it has expired."""
        raw = self._txn.get(key, db=self._tables["state"])
        if raw is None or (rules.expire_ms and _expired(raw, rules, now)):
            return History()
        try:
            return History.from_bytes(memoryview(raw)[_TOUCHED.size :])
        except (ValueError, struct.error) as error:
            raise ArtifactError(f"state of {key!r}: {error}", "restore the data folder") from error

    def names(self, first: int, last: int) -> list[str]:
        """The ids of the item codes first..last."""
        if first > last:
            return []
        with self._txn.cursor(db=self._tables["items"]) as cursor:
            cursor.set_range(b"c" + _CODE.pack(first))
            values = islice(cursor.iternext(keys=False, values=True), last - first + 1)
            return [bytes(name).decode() for name in values]

    def updates(self, after: int) -> list[Update]:
        """The newest fields of every item that has changed after a version."""
        fields, found = self._tables["fields"], []
        with self._txn.cursor(db=fields) as cursor:
            if cursor.set_range(b"v" + _SEQUENCE.pack(after + 1)):
                for key, name in cursor.iternext():
                    if not key.startswith(b"v"):
                        break
                    kept = _unpack_kept(self._txn.get(text_key(b"i", name.decode()), db=fields))
                    found.append(Update(kept.name, kept.fields))
        return found

    def records(self, start: int, n: int) -> list[Entry]:
        """Up to `n` records of the log from sequence `start` on."""
        with self._txn.cursor(db=self._tables["log"]) as cursor:
            cursor.set_range(_SEQUENCE.pack(start))
            return [(_SEQUENCE.unpack(key)[0], _unpack_record(raw)) for key, raw in islice(cursor.iternext(), n)]

    # -- writing ---------------------------------------------------------------------------------------------

    def apply(
        self, records: Iterable[tuple[Record, bytes]], rules: Rules, now: int, known: dict[str, int]
    ) -> dict[str, int]:
        """Log records and take them into the states: the only place where a state changes.

        `known` are item codes that the caller remembers. Returns the codes that were looked up or given out.
        """
        before = self.counters()
        at, codes, version = before
        histories: dict[bytes, History] = {}
        looked_up: dict[str, int] = {}
        log = self._tables["log"]
        for record, raw in records:
            self._txn.put(_SEQUENCE.pack(at), raw, db=log, append=True)
            at += 1
            if not isinstance(record, Event):
                version += isinstance(record, ItemUpdate)
                self._merge(record, version)
                continue
            code = known.get(record.item) or looked_up.get(record.item)
            if code is None:
                code = self._code(record.item, codes + 1)
                codes = max(codes, code)
                looked_up[record.item] = code
            key = record.key
            history = histories.get(key)
            if history is None:
                history = histories[key] = self.history(key, rules, now)
            history.append(code, record.time, _SHOWN if record.is_impression else rules.limits)
        touched = _TOUCHED.pack(now)
        for key, history in histories.items():
            self._txn.put(key, touched + history.to_bytes(), db=self._tables["state"])
        self._txn.put(b"counters", _COUNTERS.pack(at, codes, version), db=self._tables["meta"])
        return looked_up

    def sweep(self, after: bytes, n: int, rules: Rules, now: int) -> tuple[bytes | None, int]:
        """Delete expired states among the next `n` keys after `after`: the last key seen (None at the end), count."""
        expired: list[bytes] = []
        last = None
        with self._txn.cursor(db=self._tables["state"]) as cursor:
            if cursor.set_range(after + b"\0"):
                for key, raw in islice(cursor.iternext(), n):
                    last = key
                    if _expired(raw, rules, now):
                        expired.append(key)
        for key in expired:
            self._txn.delete(key, db=self._tables["state"])
        return last, len(expired)

    def _code(self, item: str, fresh: int) -> int:
        items, key = self._tables["items"], text_key(b"i", item)
        raw = self._txn.get(key, db=items)
        if raw is not None:
            found: int = _CODE.unpack(raw)[0]
            return found
        self._txn.put(key, _CODE.pack(fresh), db=items)
        self._txn.put(b"c" + _CODE.pack(fresh), item.encode(), db=items)
        return fresh

    def _merge(self, update: Record, version: int) -> None:
        """Newest fields over older ones; an item also moves to the end of the list of changes."""
        assert not isinstance(update, Event)  # noqa: S101
        fields = self._tables["fields"]
        item = isinstance(update, ItemUpdate)
        name = update.item if isinstance(update, ItemUpdate) else update.user
        key = text_key(b"i" if item else b"u", name)
        raw = self._txn.get(key, db=fields)
        old = _unpack_kept(raw) if raw else Kept(name, 0, {})
        if item:
            self._txn.delete(b"v" + _SEQUENCE.pack(old.version), db=fields)
            self._txn.put(b"v" + _SEQUENCE.pack(version), name.encode(), db=fields)
        self._txn.put(key, _pack(Kept(name, version if item else 0, {**old.fields, **update.fields})), db=fields)


def _expired(raw: bytes, rules: Rules, now: int) -> bool:
    return bool(rules.expire_ms) and now - _TOUCHED.unpack_from(raw)[0] > rules.expire_ms


def encoded(records: Sequence[Record]) -> Iterator[tuple[Record, bytes]]:
    """Each record with its line in the log."""
    return ((record, _pack(record)) for record in records)


def open_tables(env: Any, *, read_only: bool) -> dict[str, Any]:
    """The named databases of an environment. Raises ArtifactError when another version made them."""
    if not read_only:
        meta = env.open_db(b"meta")
        with env.begin(write=True) as txn:
            found = txn.get(b"schema", db=meta)
            if found is None:
                txn.put(b"schema", SCHEMA, db=meta)
    else:
        meta = env.open_db(b"meta", create=False)
        with env.begin() as txn:
            found = txn.get(b"schema", db=meta)
    if found not in (None, SCHEMA):
        raise ArtifactError(
            f"data folder: schema {found.decode(errors='replace')}, this version reads {SCHEMA.decode()}",
            "use the millirec version that made it, or another --data folder",
        )
    return {name: env.open_db(name.encode(), create=not read_only) for name in TABLES}
