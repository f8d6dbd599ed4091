"""Anonymous sessions: `SessionId ItemId Time` tables, or a session a line, with the owners' test part.

Test files: sessions as in training (every click with one before it is asked for), or `prefix<TAB>target` lines
(NARM, SR-GNN), whose target alone is asked for.
"""

import re
from pathlib import Path

import polars as pl

from millirec.data.dataset import CONTEXT, TEST, Dataset
from millirec.data.errors import DataError
from millirec.data.filters import Filters
from millirec.data.sources import assemble, given, names
from millirec.data.sources.files import File, one
from millirec.data.sources.rejects import Rejects
from millirec.data.sources.sequences import token_lines
from millirec.data.sources.tables import Columns, open_table, read_events

_TIMED = re.compile(rb"(\S+:\d+\s*)+")


class SessionConfig(Filters, frozen=True, kw_only=True, tag="sessions"):
    """`path`: the training sessions, or a folder with one file `*train*` and perhaps one `*test*`.

    With a test part the split is given: its sessions test, and the last `validation` share of training sessions
    validates as they do: every event but the first is asked for. In a session-a-line file `item:ms` gives times.
    """

    path: str
    test: str | None = None
    validation: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        given.check_share(self.validation)

    @property
    def protocol(self) -> str:
        """The split in words, where there is a test part."""
        return given.protocol(self.validation, "all")


def read_sessions(config: SessionConfig, rejects: Rejects) -> Dataset:
    """Sessions stand as users. Events in file order."""
    path = Path(config.path)
    train_path, test_path = _parts(path) if path.is_dir() else (path, None)
    if config.test:
        test_path = Path(config.test)
    events = _read(train_path, "", rejects)
    name = path.resolve().name if path.is_dir() else path.name.split(".")[0]
    if test_path is None:
        return assemble.dataset(events, name=name)
    test = _read(test_path, "test-", rejects)
    if ("time" in events.columns) != ("time" in test.columns):  # then the file order must do for both
        events, test = (frame.drop("time", strict=False) for frame in (events, test))
    joined = given.join(events, test, config.validation, "all")
    return assemble.dataset(joined, name=name, protocol=config.protocol)


def _parts(folder: Path) -> tuple[Path, Path | None]:
    """The training and the test file of a folder; of several test files the one with targets."""
    files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    train = [f for f in files if "train" in f.name]
    if len(train) != 1:
        held = ", ".join(f.name for f in files[:8]) or "nothing"
        raise DataError(f"{folder}: {len(train)} files *train* (it holds {held})", "name path and test as files")
    test = sorted((f for f in files if "test" in f.name), key=lambda f: "target" not in f.name)
    return train[0], test[0] if test else None


def _read(path: Path, prefix: str, rejects: Rejects) -> pl.DataFrame:
    file = one(path)
    with file.plain() as plain:
        with plain.open("rb") as stream:
            first = stream.readline(1 << 20)
        heads = re.split(r"[,;\t]", first.decode("utf-8-sig", "replace").strip())
        if not names.pick(heads, names.SESSIONS):
            return _lines(
                file, plain, prefix, rejects, targets=b"\t" in first, timed=_TIMED.fullmatch(first) is not None
            )
    with open_table(path) as table:
        columns = Columns(user=names.pick(heads, names.SESSIONS), value="")
        return read_events(table, columns, None, rejects)


def _lines(file: File, plain: Path, prefix: str, rejects: Rejects, *, targets: bool, timed: bool) -> pl.DataFrame:
    """A session a line. With `targets` a line is the prefix (CONTEXT), then the target (TEST)."""
    columns: dict[str, list[str]] = {"user": [], "item": []}
    lengths: list[int] = []
    for number, tokens in enumerate(token_lines(file, plain, rejects, least=2 if targets else 1), start=1):
        columns["user"] += [f"{prefix}{number}"] * len(tokens)
        columns["item"] += tokens
        lengths.append(len(tokens))
    frame = pl.DataFrame(columns, schema={"user": pl.String(), "item": pl.String()})
    if timed:
        parts = pl.col("item").str.splitn(":", 2).struct
        frame = frame.with_columns(
            item=parts.field("field_0"), time=parts.field("field_1").cast(pl.Int64, strict=False)
        )
        if frame["time"].null_count():
            wrong = frame.filter(pl.col("time").is_null())["user"][0].removeprefix(prefix)
            raise DataError(f"{file.label}: session {wrong}: an item without `:milliseconds`", "mend the line")
    if targets:
        last = pl.Series(lengths, dtype=pl.Int64).cum_sum() - 1
        role = pl.when(pl.int_range(pl.len()).is_in(last.implode())).then(TEST).otherwise(CONTEXT)
        frame = frame.with_columns(role=role.cast(pl.UInt8))
    return frame
