"""`guess`: which reader a path needs, by names and first lines."""

import re
from pathlib import Path

from millirec.data.compact import is_compact
from millirec.data.errors import DataError
from millirec.data.sources import names
from millirec.data.sources.checks import guess_unit
from millirec.data.sources.compact import CompactConfig
from millirec.data.sources.files import File, find, is_zip, one
from millirec.data.sources.log import LogConfig
from millirec.data.sources.movielens import MovieLensConfig
from millirec.data.sources.sequences import SequenceFileConfig
from millirec.data.sources.sessions import SessionConfig
from millirec.data.sources.tables import Columns, FeatureTable, TableConfig, guess_format, open_table

Guess = MovieLensConfig | TableConfig | SequenceFileConfig | SessionConfig | LogConfig | CompactConfig

_SIMULATED = {"category": "categorical", "tags": "multi", "title": "text", "arrival": "numeric"}
_MOVIELENS = ("ratings.dat", "u.data")


def guess(path: Path) -> Guess:
    """The config that reads `path`. Raises DataError when nothing fits, and says what was looked for."""
    if path.is_dir():
        return _folder(path)
    if path.exists() and is_zip(path) and find(path, (*_MOVIELENS, "ratings.csv")):
        return MovieLensConfig(path=str(path))
    file = one(path)
    csv_edition = file.name == "ratings.csv" and find(path.parent, ("movies.csv",))
    if file.name in _MOVIELENS or csv_edition:
        return MovieLensConfig(path=str(path))
    with file.plain() as plain:
        if guess_format(file, plain) != "csv":
            return TableConfig(path=str(path))
        with plain.open("rb") as stream:
            lines = [line for _ in range(200) if (line := stream.readline(1 << 16).decode("utf-8-sig", "replace"))]
    return _text(path, file, lines)


def _folder(path: Path) -> Guess:
    if (path / "data.mdb").is_file():
        return LogConfig(path=str(path))
    if is_compact(path):
        return CompactConfig(path=str(path))
    if find(path, (*_MOVIELENS, "ratings.csv")):
        return MovieLensConfig(path=str(path))
    if any(path.glob("*.parquet")):
        return TableConfig(path=str(path))
    for kind in ("", ".csv", ".jsonl"):  # as the simulator writes it
        if (path / f"events{kind}").exists():
            items = path / f"items{kind}"
            table = FeatureTable(path=str(items), features=_SIMULATED) if items.exists() else None  # type: ignore[arg-type]
            return TableConfig(path=str(path / f"events{kind}"), items=table)
    files = [f for f in sorted(path.iterdir()) if f.is_file() and not _aside(f)]
    if sum("train" in f.name for f in files) == 1:
        return SessionConfig(path=str(path))
    if len(files) != 1:
        held = ", ".join(f.name for f in files[:8]) or "nothing"
        raise DataError(f"{path}: which file is the log? it holds {held}", "name one file")
    return guess(files[0])


def _aside(file: Path) -> bool:
    return file.name.startswith(".") or "readme" in file.name.lower() or file.name.endswith("_item2attributes.json")


def _text(path: Path, file: File, lines: list[str]) -> Guess:
    first = lines[0].rstrip("\r\n")
    heads = re.split(r"::|[,;\t|]", first)
    if names.pick(heads, names.ITEMS):
        return TableConfig(path=str(path))
    if ("\t" in first and " " in first.split("\t")[0]) or "session" in file.name or re.match(r"\S+:\d+(\s|$)", first):
        return SessionConfig(path=str(path))
    if len(heads) == 1 or _words_only(lines):
        return SequenceFileConfig(path=str(path))
    if any(re.fullmatch(r"[A-Za-z_][\w ]*", head) for head in heads):
        return TableConfig(path=str(path))  # a heading with unusual names: the reader asks for them
    return _headless(path)


def _words_only(lines: list[str]) -> bool:
    """Words between blanks, not the same number in every line."""
    return not any("," in line or "\t" in line or ";" in line for line in lines)


def _headless(path: Path) -> TableConfig:
    """`user item [value] [time]` without a heading."""
    with open_table(path, header=False) as table:
        found = {"user": "1", "item": "2", "value": "", "time": ""}
        for column in table.columns[2:4]:
            sample = table.sample(column).cast(float, strict=False).drop_nulls()
            middle = sample.median() if len(sample) else 0
            big = isinstance(middle, int | float) and middle > 1e6
            found["time" if big and guess_unit(sample) != "iso" else "value"] = column
    return TableConfig(path=str(path), header=False, columns=Columns(**found))
