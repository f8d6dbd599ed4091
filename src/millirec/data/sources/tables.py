"""Tables: csv, tsv, parquet and json lines, with a mapping of columns."""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import polars as pl

from millirec.data.dataset import Dataset
from millirec.data.errors import DataError
from millirec.data.filters import Filters
from millirec.data.sources import assemble, names
from millirec.data.sources.checks import LINE, REASON, Checks, FeatureRules, Rules, TimeUnit, guess_unit
from millirec.data.sources.files import File, one
from millirec.data.sources.lines import JsonLines, Layout, read_lines
from millirec.data.sources.rejects import Rejects

Format = Literal["auto", "csv", "tsv", "parquet", "jsonl"]
Kind = Literal["categorical", "multi", "numeric", "text"]

_SEPARATORS = ("::", "\t", ",", ";", "|", " ")
_SAMPLE = 10_000


class Columns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which column is what. Left out: guessed by the usual names. "" means that there is none.

    `user` may be a session. Without a time, events stand in file order. Without a heading, columns are called "1",
    "2", "3" from the left.
    """

    user: str | None = None
    item: str | None = None
    time: str | None = None
    value: str | None = None


class FeatureTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of features: `id` names its column of ids (left out: guessed), `features` says what to read and how.

    `separator` parts the values of a multi-valued feature in a text.
    """

    path: str
    features: dict[str, Kind]
    id: str | None = None
    format: Format = "auto"
    separator: str = "|"


class TableConfig(Filters, frozen=True, kw_only=True, tag="table"):
    """A table of events: a file (plain, .gz, .zip), or a folder of parquet parts, read in the order of their names.

    `time_unit` "auto" goes by the size of the numbers. `separator` of csv is guessed when left out.
    """

    path: str
    format: Format = "auto"
    columns: Columns = Columns()
    time_unit: Literal["auto", "s", "ms", "us", "ns", "iso"] = "auto"
    header: bool = True
    separator: str | None = None
    encoding: Literal["utf-8", "latin-1", "cp1252", "utf-16"] = "utf-8"
    items: FeatureTable | None = None
    users: FeatureTable | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """An open table: what its columns are called, and how to read them."""

    file: File
    path: Path
    layout: Layout | JsonLines | None
    columns: tuple[str, ...]

    def read(self, rules: Checks, rejects: Rejects) -> pl.DataFrame:
        """The checked columns. Raises DataError at the first bad row, unless skipping."""
        if self.layout is not None:
            return read_lines(self.file, self.path, self.layout, rules, rejects)
        return _read_parquet(self, rules, rejects)

    def sample(self, column: str) -> pl.Series:
        """The first values of a column, as far as they can be read."""
        rules = _Raw({"value": column})
        if self.layout is None:
            return _parquet(self.path).select(column).head(_SAMPLE).collect()[column]
        with self.path.open("rb") as stream:
            head = stream.read(1 << 20)
        if len(head) == 1 << 20:
            head = head[: head.rfind(b"\n") + 1] or head
        return _sampled(self, head, rules)

    def need(self, name: str, what: str) -> str:
        """`name`, if there is such a column. Raises DataError that names those that exist."""
        if name not in self.columns:
            raise DataError(
                f"{self.file.label}: no column {name!r} for the {what}; there are {', '.join(self.columns[:20])}",
                f"set columns.{what}",
            )
        return name


@dataclass(frozen=True, slots=True)
class _Raw:
    """Columns as they stand."""

    columns: dict[str, str]

    def check(self, rows: pl.LazyFrame, keep: Sequence[str] = ()) -> pl.LazyFrame:
        return rows.select(*self.columns, REASON, *keep)


def _sampled(table: Table, head: bytes, rules: _Raw) -> pl.Series:
    import tempfile

    assert table.layout is not None  # noqa: S101
    with tempfile.TemporaryDirectory(prefix="millirec-") as folder:
        path = Path(folder) / "head"
        path.write_bytes(head)
        sink = Rejects("skip", Path(folder) / "rejected")
        try:
            frame = read_lines(table.file, path, table.layout, rules, sink)
        except DataError:
            return pl.Series(dtype=pl.String)
        finally:
            sink.close()
    return frame["value"].head(_SAMPLE)


@contextmanager
def open_table(
    path: Path,
    format: Format = "auto",  # noqa: A002
    *,
    header: bool = True,
    separator: str | None = None,
    encoding: str = "utf-8",
    nested: bool = False,
) -> Iterator[Table]:
    """A table to read from. `nested` json fields may hold lists. Raises DataError when it is none."""
    if path.is_dir():
        parts = sorted(path.glob("*.parquet"))
        if not parts or format not in ("auto", "parquet"):
            one(path)
        yield Table(File(path), path, None, _parquet_columns(path, path))
        return
    file = one(path)
    with file.plain(encoding) as plain:
        kind = format if format != "auto" else guess_format(file, plain)
        if kind == "parquet":
            yield Table(file, plain, None, _parquet_columns(plain, path))
        elif kind == "jsonl":
            yield Table(file, plain, JsonLines(nested), _json_columns(file, plain))
        else:
            layout = _layout(file, plain, "\t" if kind == "tsv" else separator, header)
            yield Table(file, plain, layout, layout.columns)


def guess_format(file: File, plain: Path) -> Literal["csv", "parquet", "jsonl"]:
    """By the first bytes: parquet's mark, an object, or delimited text."""
    with plain.open("rb") as stream:
        head = stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head[:4] == b"PAR1" or file.name.endswith(".parquet"):
        return "parquet"
    if head[:1] == b"[":
        raise DataError(f"{file.label}: one JSON array, not an object a line", "write JSON lines")
    return "jsonl" if head[:1] == b"{" else "csv"


def _layout(file: File, plain: Path, separator: str | None, header: bool) -> Layout:
    with plain.open("rb") as stream:
        raw = stream.readline(100_000)
    try:
        first = raw.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{file.label}: line 1: not valid UTF-8 ({error.reason})", "set its encoding") from error
    if "\0" in first or not first.strip():
        what = "a NUL byte (a binary file?)" if "\0" in first else "empty"
        raise DataError(f"{file.label}: line 1: {what}", "give a table of text, or name its format")
    separator = separator or next((s for s in _SEPARATORS if s in first), ",")
    try:
        fields = first.split(separator) if separator == "::" else next(csv.reader([first], delimiter=separator))
    except csv.Error as error:
        raise DataError(f"{file.label}: line 1: {error}", "write lines that end in a newline") from error
    if not header:
        return Layout(tuple(str(i + 1) for i in range(len(fields))), separator, False)
    heads = tuple(name.strip() or f"column {i}" for i, name in enumerate(fields, start=1))
    twice = [name for name in heads if heads.count(name) > 1]
    if twice:
        raise DataError(f"{file.label}: line 1: the heading names {twice[0]!r} twice", "rename one of the columns")
    return Layout(heads, separator, True)


def _json_columns(file: File, plain: Path) -> tuple[str, ...]:
    """The names in the first objects that can be read."""
    found: dict[str, None] = {}
    with plain.open("rb") as stream:
        for _ in range(100):
            try:
                row = msgspec.json.decode(stream.readline(1 << 20))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            found |= dict.fromkeys(row) if isinstance(row, dict) else {}
    if not found:
        raise DataError(f"{file.label}: line 1: not a JSON object", "write one object a line")
    return tuple(found)


def _parquet(path: Path) -> pl.LazyFrame:
    return pl.scan_parquet(path / "*.parquet" if path.is_dir() else path)


def _parquet_columns(path: Path, label: Path) -> tuple[str, ...]:
    try:
        return tuple(_parquet(path).collect_schema().names())
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{label}: not a whole parquet file ({reason})", "write or get it again") from error


def _read_parquet(table: Table, rules: Checks, rejects: Rejects) -> pl.DataFrame:
    wanted = [pl.col(source).alias(name) for name, source in rules.columns.items()]
    lazy = _parquet(table.path).with_row_index(LINE, 1)
    rows = lazy.select(LINE, *wanted, pl.lit(None, pl.String).alias(REASON))
    try:
        frame = rules.check(rows, keep=(LINE,)).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{table.file.label}: cannot be read ({reason})", "check its columns and types") from error
    bad = frame.filter(pl.col(REASON).is_not_null())
    for row in bad.iter_rows(named=True):
        shown = {name: row[name] for name in rules.columns}
        rejects.add(table.file.label, row[LINE], row[REASON], repr(shown).encode(), what="row")
    good = frame.filter(pl.col(REASON).is_null()).drop(REASON, LINE)
    if not len(good):
        raise DataError(f"{table.file.label}: no rows", "check the file and its columns")
    return good


def read_table(config: TableConfig, rejects: Rejects) -> Dataset:
    """The events of a table, with the declared features."""
    path = Path(config.path)
    options = {"header": config.header, "separator": config.separator, "encoding": config.encoding}
    with open_table(path, config.format, **options) as table:  # type: ignore[arg-type]
        unit = None if config.time_unit == "auto" else config.time_unit
        events = read_events(table, config.columns, unit, rejects)
    items = read_features(config.items, names.ITEMS, rejects) if config.items else {}
    users = read_features(config.users, (*names.USERS, *names.SESSIONS), rejects) if config.users else {}
    return assemble.dataset(events, name=path.name.split(".")[0] or "table", items=items, users=users)


def read_events(table: Table, columns: Columns, unit: TimeUnit | None, rejects: Rejects) -> pl.DataFrame:
    """`user`, `item`, and `time`, `value` where there are such columns."""
    found = match_columns(table, columns)
    if "time" in found and unit is None:
        unit = guess_unit(table.sample(found["time"]))
    return table.read(Rules(found, unit or "s"), rejects)


def match_columns(table: Table, columns: Columns) -> dict[str, str]:
    """The table's columns for user, item, time, value. Raises DataError when user or item cannot be found."""
    known = {
        "user": (*names.USERS, *names.SESSIONS),
        "item": names.ITEMS,
        "time": names.TIMES,
        "value": names.VALUES,
    }
    found: dict[str, str] = {}
    for what, usual in known.items():
        asked: str | None = getattr(columns, what)
        if asked:
            found[what] = table.need(asked, what)
        elif asked is None and (guess := names.pick(table.columns, usual)):
            found[what] = guess
        elif what in ("user", "item"):
            there = ", ".join(table.columns[:20])
            raise DataError(f"{table.file.label}: which column is the {what}? there are {there}", f"set columns.{what}")
    return found


def read_features(config: FeatureTable, usual: Sequence[str], rejects: Rejects) -> dict[str, pl.DataFrame]:
    """A frame a kind: `id`, then the features of that kind."""
    with open_table(Path(config.path), config.format, nested=True) as table:
        key = config.id or names.pick(table.columns, (*usual, "id"))
        if key is None:
            there = ", ".join(table.columns[:20])
            raise DataError(f"{table.file.label}: which column is the id? there are {there}", "set its `id`")
        if key not in table.columns:
            raise DataError(
                f"{table.file.label}: no column {key!r}; there are {', '.join(table.columns[:20])}", "set its `id`"
            )
        for name in config.features:
            table.need(name, name)
        columns = {"id": key} | {name: name for name in config.features}
        frame = table.read(FeatureRules(columns, dict(config.features), config.separator), rejects)
        _only_once(table, frame, rejects)
    by_kind: dict[str, list[str]] = {}
    for name, kind in config.features.items():
        by_kind.setdefault(kind, []).append(name)
    return {kind: frame.select("id", *own) for kind, own in by_kind.items()}


def _only_once(table: Table, frame: pl.DataFrame, rejects: Rejects) -> None:
    """An id that stands twice is a bad row; the first one counts."""
    again = frame.with_row_index("row", 1).filter(~pl.col("id").is_first_distinct())
    for row, name in again.select("row", "id").iter_rows():
        rejects.add(table.file.label, row, f"the id {name!r} stands twice", str(name).encode(), what="row")
