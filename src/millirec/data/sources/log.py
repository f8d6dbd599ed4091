"""The server's own event log: the ring closes here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import polars as pl

from millirec.data.dataset import Dataset
from millirec.data.errors import DataError
from millirec.data.event import Event, Fields, ItemUpdate, Record
from millirec.data.filters import Filters
from millirec.data.sources import assemble
from millirec.data.sources.rejects import Rejects

_BATCH = 100_000


class LogConfig(Filters, frozen=True, kw_only=True, tag="log"):
    """`path`: a server's data folder. `actions`: only events of these actions; all but impressions when left out.

    Anonymous sessions become users called "session:" + their id. The newest fields that item and user updates told
    become features: numbers numeric, lists multi-valued, other values categorical, texts with spaces text.
    """

    path: str
    actions: tuple[str, ...] | None = None


def read_log(config: LogConfig, rejects: Rejects) -> Dataset:
    """Events in the order in which they were acknowledged. May be read while a server writes."""
    path = Path(config.path)
    users: list[str] = []
    items: list[str] = []
    times: list[int] = []
    values: list[float | None] = []
    fields: tuple[dict[str, Fields], dict[str, Fields]] = ({}, {})
    for record in read_records(path, rejects):
        if isinstance(record, Event):
            if not record.is_impression if config.actions is None else record.action in config.actions:
                users.append(record.user or f"session:{record.session}")
                items.append(record.item)
                times.append(record.time)
                values.append(record.value)
        elif isinstance(record, ItemUpdate):
            fields[0].setdefault(record.item, {}).update(record.fields)
        else:
            fields[1].setdefault(record.user, {}).update(record.fields)
    frame = pl.DataFrame(
        {"user": users, "item": items, "time": times},
        schema={"user": pl.String(), "item": pl.String(), "time": pl.Int64()},
    )
    if any(value is not None for value in values):
        frame = frame.with_columns(value=pl.Series(values, dtype=pl.Float32).fill_null(float("nan")))
    if not len(frame):
        raise DataError(f"{path}: the log holds no events", "check the path, and `actions`")
    return assemble.dataset(frame, name=path.resolve().name, items=_features(fields[0]), users=_features(fields[1]))


def read_records(path: Path, rejects: Rejects) -> Iterator[Record]:
    """Everything in the event log of a server's data folder, in the order in which it was acknowledged."""
    decode = msgspec.msgpack.Decoder(Record).decode
    env = _open(path)
    try:
        log = env.open_db(b"log", create=False)
        with env.begin(db=log) as txn:
            for key, raw in txn.cursor():
                try:
                    yield decode(raw)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, DataError) as error:
                    number = int.from_bytes(key, "big")
                    rejects.add(str(path), number, f"not a record ({error})", bytes(raw), what="record")
    except lmdb.Error as error:
        raise DataError(f"{path}: no event log in it ({error})", "give a server's data folder") from error
    finally:
        env.close()


def _open(path: Path) -> Any:
    if not (path / "data.mdb").is_file():
        raise DataError(f"{path}: no event log (no data.mdb in it)", "give a server's data folder (serve --data)")
    options: dict[str, Any] = {"readonly": True, "create": False, "max_dbs": 8, "max_readers": 512}
    try:
        return lmdb.open(str(path), **options)
    except lmdb.ReadonlyError:  # a folder that cannot be written to has no lock file
        return lmdb.open(str(path), lock=False, **options)
    except lmdb.Error as error:
        raise DataError(f"{path}: the event log cannot be opened ({error})", "check the folder") from error


def _features(newest: dict[str, Fields]) -> dict[str, pl.DataFrame]:
    """A frame a kind, by the kinds of the values."""
    names = dict.fromkeys(name for fields in newest.values() for name in fields)
    columns: dict[str, dict[str, pl.Series]] = {}
    for name in names:
        values = [fields.get(name) for fields in newest.values()]
        kind = _kind(values)
        columns.setdefault(kind, {})[name] = _column(kind, values)
    ids = pl.Series(list(newest), dtype=pl.String)
    return {kind: pl.DataFrame({"id": ids, **own}) for kind, own in columns.items()}


def _kind(values: list[Any]) -> str:
    known = [value for value in values if value is not None]
    if any(isinstance(value, list) for value in known):
        return "multi"
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return "numeric"
    texts = [value for value in known if isinstance(value, str)]
    return "text" if sum(" " in text for text in texts) * 2 > len(known) else "categorical"


def _column(kind: str, values: list[Any]) -> pl.Series:
    if kind == "numeric":
        return pl.Series(values, dtype=pl.Float32)
    if kind == "multi":
        lists = [[_text(v) for v in value] if isinstance(value, list) else value and [_text(value)] for value in values]
        return pl.Series(lists, dtype=pl.List(pl.String))
    return pl.Series([None if value is None else _text(value) for value in values], dtype=pl.String)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
