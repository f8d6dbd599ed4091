"""`Rejects`: where rows go that cannot be read. Nothing is dropped silently."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import msgspec

from millirec.data.errors import DataError

OnError = Literal["fail", "skip"]

_SHOWN = 80
_KEPT = 10_000


class Rejects:
    """Takes bad rows: raises at the first one ("fail"), or counts them and writes them aside ("skip").

    The file is JSON lines: `{"file", "line" (or "row"), "reason", "text"}`; a text above 10,000 bytes is cut, and the
    reason tells its length.
    """

    def __init__(self, on_error: OnError, path: Path | None) -> None:
        self.on_error = on_error
        self.path = path
        self.count = 0
        self._out: IO[bytes] | None = None

    @property
    def skipping(self) -> bool:
        """Whether reading goes on after a bad row."""
        return self.on_error == "skip"

    def add(self, label: str, line: int, reason: str, text: bytes, *, what: str = "line") -> None:
        """One bad row. Raises DataError unless skipping. `what` is counted: "line", or "row" of a binary table."""
        if not self.skipping:
            shown = text[:_SHOWN].decode("utf-8", "backslashreplace").rstrip("\r\n")
            raise DataError(
                f"{label}: {what} {line:,}: {reason} in {shown!r}{'...' if len(text) > _SHOWN else ''}",
                f"mend the {what}, or set bad rows aside with --on-error skip",
            )
        self.count += 1
        row = {
            "file": label,
            what: line,
            "reason": reason,
            "text": text[:_KEPT].decode("utf-8", "backslashreplace").rstrip("\r\n"),
        }
        self._stream(label).write(msgspec.json.encode(row) + b"\n")

    def _stream(self, label: str) -> IO[bytes]:
        if self._out is None:
            self.path = self.path or Path(f"{Path(label).name}.rejected.jsonl".replace(":", "-"))
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._out = self.path.open("wb")
            except OSError as error:
                raise DataError(
                    f"{self.path}: the rejected rows cannot be written ({error.strerror})", "choose another file"
                ) from error
        return self._out

    def close(self) -> None:
        """Flush the file."""
        if self._out is not None:
            self._out.close()
            self._out = None


@contextlib.contextmanager
def rejects(on_error: OnError, path: Path | None) -> Iterator[Rejects]:
    """A `Rejects` that closes its file at the end."""
    sink = Rejects(on_error, path)
    try:
        yield sink
    finally:
        sink.close()
