"""Delimited text: at full speed through Polars when nothing is wrong, else line by line to find what is.

Both paths give the same columns of strings and the same checks (`checks.py`) judge them.
"""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import IO

import msgspec
import polars as pl

from millirec.data.errors import DataError
from millirec.data.sources.checks import LINE, REASON, TEXT, Checks
from millirec.data.sources.files import MAX_LINE, File, clean, well_quoted
from millirec.data.sources.rejects import Rejects

_BATCH = 8 << 20
_BOM = b"\xef\xbb\xbf"
_QUOTED = re.compile(r'"([^"]*(?:""[^"]*)*)"(?!")')


class _OpenError(ValueError):
    """A record that may go on in the next line."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How lines hold fields. `columns` names all fields of a line; `separator` may be "::"."""

    columns: tuple[str, ...]
    separator: str
    header: bool
    quoted: bool = True

    def split(self, text: str) -> list[str]:
        """The fields of one record, quoted as RFC 4180 says. Raises ValueError when it is none, _OpenError when cut."""
        if not self.quoted or '"' not in text:
            return text.split(self.separator)
        fields: list[str] = []
        at = 0
        while True:
            if text.startswith('"', at):
                found = _QUOTED.match(text, at)
                if found is None:
                    raise _OpenError("a quote is never closed")
                at = found.end()
                fields.append(found[1].replace('""', '"'))
            else:
                end = text.find(self.separator, at)
                end = len(text) if end < 0 else end
                fields.append(text[at:end])
                at = end
            if at == len(text):
                return fields
            if not text.startswith(self.separator, at):
                raise ValueError("text after a closing quote")
            at += len(self.separator)


@dataclass(frozen=True, slots=True)
class JsonLines:
    """An object a line; fields that are not asked for do not matter.

    `nested`: fields may hold lists, which then come as JSON text.
    """

    nested: bool = False


def read_lines(file: File, path: Path, layout: Layout | JsonLines, rules: Checks, rejects: Rejects) -> pl.DataFrame:
    """The checked columns that `rules` asks for; `path` holds the plain bytes of `file`.

    Raises DataError at the first bad line, or sets bad lines aside, as `rejects` says.
    """
    if clean(path) and _quick(path, layout):
        frame = _fast(path, layout, rules)
        if frame is not None:
            return frame
    frames = list(_careful(file, path, layout, rules, rejects))
    if not sum(len(f) for f in frames):
        raise DataError(f"{file.label}: no row can be read", "check the file, its format and columns")
    return pl.concat(frames)


def _quick(path: Path, layout: Layout | JsonLines) -> bool:
    """Whether Polars reads the file as we would; it is lenient with stray quotes, and writes lists otherwise."""
    if isinstance(layout, JsonLines):
        return not layout.nested
    separator = layout.separator.encode()
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        if stream.read() == separator[-1:]:  # an empty field too many in the very last line
            return False
    return not layout.quoted or well_quoted(path, separator)


def _fast(path: Path, layout: Layout | JsonLines, rules: Checks) -> pl.DataFrame | None:
    """Everything at once; None when anything at all looks wrong."""
    try:
        lazy = _scan_json(path, rules) if isinstance(layout, JsonLines) else _scan(path, layout, rules)
        frame = rules.check(lazy).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError):
        return None
    if not len(frame) or frame[REASON].null_count() < len(frame):
        return None
    return frame.drop(REASON)


def _scan(path: Path, layout: Layout, rules: Checks) -> pl.LazyFrame:
    separator, names = layout.separator, list(layout.columns)
    if separator == "::":  # Polars takes one byte: read empty fields between the colons, and check them
        separator = ":"
        names = [part for i, name in enumerate(names) for part in ((f"__gap{i}__", name) if i else (name,))]
    lazy = pl.scan_csv(
        path,
        separator=separator,
        has_header=layout.header,
        quote_char='"' if layout.quoted else None,
        schema=dict.fromkeys(names, pl.String()),
    )
    ragged = pl.col(names[-1]).is_null()  # too few fields, or an honest empty one: the careful pass knows
    for name in names:
        if name.startswith("__gap"):
            ragged |= pl.col(name).is_not_null()
    wanted = [pl.col(source).alias(name) for name, source in rules.columns.items()]
    return lazy.select(*wanted, pl.when(ragged).then(pl.lit("fields")).alias(REASON))


def _scan_json(path: Path, rules: Checks) -> pl.LazyFrame:
    schema = dict.fromkeys(rules.columns.values(), pl.String())
    wanted = [pl.col(source).alias(name) for name, source in rules.columns.items()]
    return pl.scan_ndjson(path, schema=schema).select(*wanted, pl.lit(None, pl.String).alias(REASON))


@dataclass(slots=True)
class Record:
    """A line or more of a file: its number, its bytes, its true size, and what is wrong with it already."""

    line: int
    text: bytes
    size: int
    reason: str | None = None


def _careful(
    file: File, path: Path, layout: Layout | JsonLines, rules: Checks, rejects: Rejects
) -> Iterator[pl.DataFrame]:
    rows: list[tuple[str | int | None, ...]] = []
    size = 0
    wanted = list(rules.columns.values())
    with path.open("rb") as stream:
        for record in _records(stream, layout):
            if not record.text.strip():
                continue
            fields, reason = _fields(record, layout, wanted)
            rows.append((*fields, reason, record.line, record.text.decode("latin-1")))
            size += len(record.text) + 200
            if size > _BATCH:
                yield _judge(file, rows, rules, rejects)
                rows, size = [], 0
    if rows:
        yield _judge(file, rows, rules, rejects)


def _judge(file: File, rows: list[tuple[str | int | None, ...]], rules: Checks, rejects: Rejects) -> pl.DataFrame:
    schema = dict.fromkeys([*rules.columns, REASON], pl.String()) | {LINE: pl.Int64(), TEXT: pl.String()}
    frame = rules.check(pl.DataFrame(rows, schema=schema, orient="row").lazy(), keep=(LINE, TEXT)).collect()
    bad = frame.filter(pl.col(REASON).is_not_null())
    for line, text, reason in bad.select(LINE, TEXT, REASON).iter_rows():
        rejects.add(file.label, line, reason, text.encode("latin-1"))
    return frame.filter(pl.col(REASON).is_null()).drop(REASON, LINE, TEXT)


def _fields(record: Record, layout: Layout | JsonLines, wanted: list[str]) -> tuple[list[str | None], str | None]:
    """The wanted fields of a record, or what is wrong with it."""
    nothing: list[str | None] = [None] * len(wanted)
    if record.reason:
        return nothing, record.reason
    if b"\0" in record.text:
        return nothing, "a NUL byte"
    try:
        text = record.text.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        return nothing, f"not valid UTF-8 at byte {error.start + 1}"
    if isinstance(layout, JsonLines):
        return _json_fields(text, wanted)
    try:
        fields = layout.split(text)
    except ValueError as error:
        return nothing, str(error)
    if len(fields) != len(layout.columns):
        return nothing, f"{len(fields)} fields instead of {len(layout.columns)}"
    at = dict(zip(layout.columns, fields, strict=True))
    return [at[name] or None for name in wanted], None


def _json_fields(text: str, wanted: list[str]) -> tuple[list[str | None], str | None]:
    nothing: list[str | None] = [None] * len(wanted)
    try:
        row = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return nothing, f"not JSON ({error})"
    if not isinstance(row, dict):
        return nothing, "not a JSON object"
    found: list[str | None] = []
    for name in wanted:
        value = row.get(name)
        found.append(value if value is None or isinstance(value, str) else _text(value))
    return found, None


def _text(value: object) -> str:
    """A JSON value that is no text, written as Polars writes it: 3.0 is 3, 1e2 is 100."""
    if not isinstance(value, float) or not math.isfinite(value):
        return msgspec.json.encode(value).decode()
    return format(Decimal(repr(value)), "f").removesuffix(".0")


def _records(stream: IO[bytes], layout: Layout | JsonLines) -> Iterator[Record]:
    """One record a line, but for quoted fields that go over several lines."""
    lines = numbered(stream)
    header = isinstance(layout, Layout) and layout.header
    ahead: list[Record] = []
    while (record := ahead.pop(0) if ahead else next(lines, None)) is not None:
        if record.line == 1:
            record.text = record.text.removeprefix(_BOM)
            if header:
                continue
        if isinstance(layout, Layout) and layout.quoted and not record.reason and b'"' in record.text:
            yield _closed(record, ahead, lines, layout)
        else:
            yield record


def _closed(first: Record, ahead: list[Record], lines: Iterator[Record], layout: Layout) -> Record:
    """A record whose quotes close on a later line; else its first line alone is bad and reading goes on after it.

    Two stray quotes far apart must not swallow the good lines between them: what they enclose is no whole record.
    """
    taken: list[Record] = []
    raw = first.text
    while _open(raw, layout) and len(raw) <= MAX_LINE // 8 and len(taken) < 100:
        following = ahead.pop(0) if ahead else next(lines, None)
        if following is None or following.reason:
            ahead[:0] = taken if following is None else [*taken, following]
            return first
        taken.append(following)
        raw += following.text
    whole = Record(first.line, raw, len(raw))
    if taken and _fields(whole, layout, [])[1]:
        ahead[:0] = taken
        return first
    return whole


def _open(raw: bytes, layout: Layout) -> bool:
    """Does the record end within quotes?"""
    try:
        layout.split(raw.decode().rstrip("\r\n"))
    except ValueError as error:
        return isinstance(error, _OpenError)
    return False


def numbered(stream: IO[bytes]) -> Iterator[Record]:
    """Lines with their numbers, counted from 1. Of a line above MAX_LINE only the beginning is kept."""
    number = 0
    while head := stream.readline(MAX_LINE + 1):
        number += 1
        size = len(head)
        if size <= MAX_LINE:
            yield Record(number, head, size)
            continue
        piece = head
        while not piece.endswith(b"\n") and (piece := stream.readline(MAX_LINE)):
            size += len(piece)
        yield Record(number, head[:20_000], size, f"a line of {size:,} bytes (at most {MAX_LINE:,})")
