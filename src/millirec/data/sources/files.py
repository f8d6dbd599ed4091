"""Files as they come: plain, gzipped, or a member of a zip archive."""

import codecs
import contextlib
import gzip
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from millirec.data.errors import DataError

MAX_LINE = 1 << 20
"""Bytes; a longer line is taken for damage."""

_CHUNK = 1 << 22
_GZIP = b"\x1f\x8b"
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True)
class File:
    """A file on disk, or one member of a zip archive."""

    path: Path
    member: str | None = None

    @property
    def label(self) -> str:
        """The file's name in messages."""
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    @property
    def name(self) -> str:
        """The name without folder and without .gz or .zip."""
        name = Path(self.member).name if self.member else self.path.name
        for suffix in (".gz", ".zip"):
            name = name.removesuffix(suffix)
        return name

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The bytes, decompressed. Raises DataError when missing, unreadable or (while reading) truncated."""
        with contextlib.ExitStack() as stack:
            try:
                stream = self._stream(stack)
            except _BROKEN as error:
                raise DataError(f"{self.label}: damaged archive ({error})", "get the file again") from error
            except RuntimeError as error:  # zipfile: encrypted
                raise DataError(f"{self.label}: {error}", "unpack it first") from error
            except OSError as error:
                raise DataError(f"{self.label}: {error.strerror or error}", "check path and rights") from error
            yield stream

    def _stream(self, stack: contextlib.ExitStack) -> BinaryIO:
        if self.member is not None:
            archive = stack.enter_context(zipfile.ZipFile(self.path))
            stream = cast(BinaryIO, stack.enter_context(archive.open(self.member)))
            if not self.member.endswith(".gz"):
                return stream
            return cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=stream)))
        raw = stack.enter_context(self.path.open("rb"))
        if not self._gzipped():
            return raw
        return cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=raw)))

    def _gzipped(self) -> bool:
        with self.path.open("rb") as raw:
            return raw.read(2) == _GZIP

    @contextlib.contextmanager
    def plain(self, encoding: str = "utf-8") -> Iterator[Path]:
        """A path to the uncompressed UTF-8 bytes: the file itself, or a temporary copy of it.

        Raises DataError when the archive is truncated (with the last whole line) or the file is empty.
        """
        with self.open() as stream, contextlib.ExitStack() as stack:
            if self.member is None and not self._gzipped():
                path = self.path
            else:
                path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="millirec-"))) / "plain"
                self._copy(stream, path)
            if encoding != "utf-8":
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="millirec-"))
                path = self._recode(path, Path(folder) / "utf8", encoding)
            if path.stat().st_size == 0:
                raise DataError(f"{self.label}: the file is empty", "check how it was made")
            yield path

    def _copy(self, stream: BinaryIO, path: Path) -> None:
        lines = 0
        with path.open("wb") as out:
            try:
                # read1 gives what there is before it fails, so that the line count is exact
                while chunk := stream.read1(_CHUNK):  # type: ignore[attr-defined]
                    lines += chunk.count(b"\n")
                    out.write(chunk)
            except _BROKEN as error:
                raise DataError(
                    f"{self.label}: the archive breaks off after line {lines:,} ({error})",
                    "get the file again: what follows is lost",
                ) from error

    def _recode(self, path: Path, to: Path, encoding: str) -> Path:
        decoder = codecs.getincrementaldecoder(encoding)()
        lines = 0
        with path.open("rb") as stream, to.open("wb") as out:
            try:
                while chunk := stream.read(_CHUNK):
                    text = decoder.decode(chunk)
                    lines += text.count("\n")
                    out.write(text.encode())
                out.write(decoder.decode(b"", final=True).encode())
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self.label}: not {encoding} after line {lines:,} ({error.reason})", "name its encoding"
                ) from error
        return to


def one(path: Path) -> File:
    """The file at `path`; a zip archive must hold one table only.

    Raises DataError when it is missing, a folder, or an archive of several files.
    """
    if path.is_dir():
        names = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
        raise DataError(f"{path}: a folder, not a file (it holds {names})", "name one of its files")
    if not path.exists():
        raise DataError(f"{path}: no such file", "check the path")
    if not is_zip(path):
        return File(path)
    names_ = members(path)
    if len(names_) != 1:
        raise DataError(
            f"{path}: an archive of {len(names_)} files ({', '.join(names_[:8])})", "unpack it and name one file"
        )
    return File(path, names_[0])


def is_zip(path: Path) -> bool:
    """Does the file start as zip archives do?"""
    try:
        with path.open("rb") as stream:
            return stream.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}", "check path and rights") from error


def members(path: Path) -> list[str]:
    """The files in a zip archive. Raises DataError when it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: damaged or truncated archive ({error})", "get the file again") from error
    return [n for n in names if not n.endswith("/") and not n.startswith("__MACOSX")]


def find(path: Path, names: Sequence[str]) -> File | None:
    """The first of `names` in a folder or zip archive, itself or with .gz or .zip behind it; None when absent."""
    wanted = [name + suffix for name in names for suffix in ("", ".gz", ".zip")]
    if path.is_dir():
        for name in wanted:
            if (path / name).is_file():
                return one(path / name)
        return None
    held = {Path(name).name: name for name in reversed(members(path))}
    return next((File(path, held[name]) for name in wanted if name in held), None)


def clean(path: Path) -> bool:
    """Is every byte fit to be parsed at full speed: UTF-8, no NUL, no line above MAX_LINE (its end counted)?"""
    decoder = codecs.getincrementaldecoder("utf-8")()
    since = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            if b"\0" in chunk:
                return False
            ends = np.flatnonzero(np.frombuffer(chunk, np.uint8) == 10)
            longest = since + len(chunk) if not len(ends) else max(since + int(ends[0]) + 1, _widest(ends))
            since = since + len(chunk) if not len(ends) else len(chunk) - int(ends[-1]) - 1
            if max(longest, since) > MAX_LINE:
                return False
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError:
                return False
    return not decoder.getstate()[0]


def well_quoted(path: Path, separator: bytes) -> bool:
    """Does every quote begin a field, end one, or stand doubled within one (RFC 4180)?"""
    before = np.frombuffer(separator[-1:] + b'\n"', np.uint8)
    after = np.frombuffer(separator[:1] + b'\r\n"', np.uint8)
    inside = 0
    last = b"\n"
    with path.open("rb") as stream:
        chunk = stream.read(_CHUNK).removeprefix(codecs.BOM_UTF8)
        while chunk:
            following = stream.read(_CHUNK)
            if b'"' in chunk:
                text = np.frombuffer(last + chunk + (following[:1] or b"\n"), np.uint8)
                at = np.flatnonzero(text[1:-1] == 34) + 1
                opening = (np.arange(len(at)) + inside) % 2 == 0
                good = np.where(opening, np.isin(text[at - 1], before), np.isin(text[at + 1], after))
                if not good.all():
                    return False
                inside = (inside + len(at)) % 2
            last, chunk = chunk[-1:], following
    return not inside


def _widest(ends: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> int:
    return int(np.diff(ends).max(initial=0))
