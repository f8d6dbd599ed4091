"""`compare`: the same log as csv, gzipped csv, parquet and compact columns; size and time to load of each."""

import gzip
import math
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from millirec.data.catalog import Vocabulary
from millirec.data.dataset import Dataset
from millirec.data.errors import DataError
from millirec.data.sources import CompactConfig, SourceConfig, TableConfig, read
from millirec.data.sources.tables import Columns

_SECOND = 1000


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """A log in one format: bytes on disk, and the median of the seconds that it takes to read it as a data set; None
    when it cannot be read, since the ids do not go into this format.

    csv and parquet hold user, item, time and value of each event; compact holds roles, ids and features as well, which
    `beside` counts (bytes).
    """

    name: str
    bytes: int
    bytes_per_event: float
    load_seconds: float | None
    beside: int = 0


def compact_format(dataset: Dataset, folder: Path) -> Format:
    """The compact log in `folder` alone, read once."""
    source = CompactConfig(path=str(folder))
    return _format("compact", source, [_seconds(source)], len(dataset.interactions))


def compare(dataset: Dataset, folder: Path, *, rounds: int = 3) -> list[Format]:
    """`dataset` as csv, csv.gz and parquet (zstd) in a temporary folder, beside the compact log in `folder`.

    The others are written to their advantage: ids and values that are whole numbers as such, times in seconds where
    that loses nothing. All are read `rounds` times in turn.
    """
    with tempfile.TemporaryDirectory(prefix="millirec-") as place:
        sources = written(dataset, Path(place)) | {"compact": CompactConfig(path=str(folder))}
        seconds: dict[str, list[float]] = {name: [] for name in sources}
        for _ in range(rounds):
            for name, source in sources.items():
                seconds[name].append(_seconds(source))
        return [_format(name, source, seconds[name], len(dataset.interactions)) for name, source in sources.items()]


def _seconds(source: SourceConfig) -> float:
    since = time.perf_counter()
    try:
        read(source)
    except DataError:  # such as an id with a line break in a csv
        return math.nan
    return time.perf_counter() - since


def written(dataset: Dataset, folder: Path) -> dict[str, SourceConfig]:
    """Write the events in each format; what reads them again, by the name of the format."""
    frame, unit = _table(dataset)
    csv, zipped, parquet = folder / "events.csv", folder / "events.csv.gz", folder / "events.parquet"
    frame.write_csv(csv)
    with csv.open("rb") as plain, gzip.open(zipped, "wb") as packed:
        shutil.copyfileobj(plain, packed)
    frame.write_parquet(parquet, compression="zstd")
    known = {name: name if name in frame.columns else "" for name in ("time", "value")}
    columns = Columns(user="user", item="item", **known)
    return {
        name: TableConfig(path=str(path), columns=columns, time_unit="s" if unit == _SECOND else "ms")
        for name, path in (("csv", csv), ("csv.gz", zipped), ("parquet", parquet))
    }


def _table(dataset: Dataset) -> tuple[pl.DataFrame, int]:
    """The events as others keep them, and the unit of their times in ms."""
    log = dataset.interactions
    unit = _SECOND if len(log) and not (log.times % _SECOND).any() else 1
    columns = {"user": _ids(dataset.users.vocabulary, log.users), "item": _ids(dataset.items.vocabulary, log.items)}
    if dataset.timed:
        columns["time"] = pl.Series(log.times // unit)
    if log.values is not None:
        whole = bool((log.values == np.rint(log.values)).all()) and bool((np.abs(log.values) < 1 << 24).all())
        columns["value"] = pl.Series(log.values.astype(np.int32) if whole else log.values)
    return pl.DataFrame(columns), unit


def _ids(vocabulary: Vocabulary, rows: NDArray[np.int32]) -> pl.Series:
    """The id of each event, as a number where all are numbers and would be written so."""
    ids = pl.Series(["", *vocabulary.ids], dtype=pl.String)
    numbers = ids[1:].cast(pl.Int64, strict=False)
    if not numbers.null_count() and (numbers.cast(pl.String) == ids[1:]).all():
        ids = pl.concat([pl.Series([0], dtype=pl.Int64), numbers])
    return ids.gather(rows)


def _format(name: str, source: SourceConfig, seconds: list[float], n: int) -> Format:
    assert isinstance(source, CompactConfig | TableConfig)  # noqa: S101
    path = Path(source.path)
    files = {file.name: file.stat().st_size for file in path.iterdir()} if path.is_dir() else {"": path.stat().st_size}
    size = sum(files.values())
    return Format(
        name=name,
        bytes=size,
        bytes_per_event=round(size / n, 4),
        load_seconds=None if math.isnan(sum(seconds)) else round(statistics.median(seconds), 4),
        beside=size - files["events.bin"] if "events.bin" in files else 0,
    )
