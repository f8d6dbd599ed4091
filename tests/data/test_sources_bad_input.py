"""Damaged logs: one error that names file, line and mend; or every bad row set aside with its text."""

import gzip
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.data.errors import DataError, MillirecError
from millirec.data.sources import (
    Columns,
    FeatureTable,
    LogConfig,
    MovieLensConfig,
    SequenceFileConfig,
    SessionConfig,
    TableConfig,
    read,
)

HEAD = b"user,item,time,rating\n"
GOOD = b"".join(b"u%d,i%d,%d,3\n" % (k % 7, k % 11, 1_000_000_000 + k) for k in range(50))

# A bad 52nd line, and what the message says of it.
BAD_LINES = {
    "text for a time": (b"u1,i1,soon,3", "`time` = soon is not a number"),
    "nan for a time": (b"u1,i1,nan,3", "`time` = nan is not a number"),
    "an infinite time": (b"u1,i1,inf,3", "`time` = inf is not a number"),
    "no time": (b"u1,i1,,3", "`time` is empty"),
    "a negative time": (b"u1,i1,-5,3", "`time` = -5 is before 1970"),
    "a time in the year 3170": (b"u1,i1,37881093600,3", "after the year 2100"),
    "a time beyond 64 bits": (b"u1,i1,99999999999999999999999,3", "after the year 2100"),
    "text for a rating": (b"u1,i1,1000000000,good", "`rating` = good is not a number"),
    "an infinite rating": (b"u1,i1,1000000000,inf", "`rating` = inf is not a number"),
    "no user": (b",i1,1000000000,3", "`user` is empty"),
    "no item": (b"u1,,1000000000,3", "`item` is empty"),
    "an endless id": (b"u" * 1001 + b",i1,1000000000,3", "`user` is longer than 1000 bytes"),
    "too few fields": (b"u1,i1,1000000000", "3 fields instead of 4"),
    "too many fields": (b"u1,i1,1000000000,3,4", "5 fields instead of 4"),
    "Latin-1": ("u1,Amélie,1000000000,3".encode("latin-1"), "not valid UTF-8 at byte 6"),
    "a NUL byte": (b"u1,i\x001,1000000000,3", "a NUL byte"),
    "the heading again": (HEAD.rstrip(), "the heading stands here again"),
    "a quote that never closes": (b'"u1,i1,1000000000,3', "a quote is never closed"),
    "ten million characters": (b"x" * 10_000_000, "a line of 10,000,001 bytes"),
}


def aside(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_named_or_set_aside(tmp_path: Path, kind: str) -> None:
    bad, reason = BAD_LINES[kind]
    path = tmp_path / "log.csv"
    path.write_bytes(HEAD + GOOD + bad + b"\n" + GOOD)
    with pytest.raises(DataError) as caught:
        read(TableConfig(path=str(path)))
    message = str(caught.value)
    assert f"{path}: line 52: " in message
    assert reason in message
    assert "--on-error skip" in caught.value.mend
    assert "\n" not in message
    assert len(message) < 600

    kept = read(TableConfig(path=str(path)), on_error="skip", rejected=tmp_path / "bad.jsonl")
    assert kept.rejected == 1
    assert len(kept.interactions) == 100
    assert kept.interactions.times[50] == 1_000_000_000_000
    (row,) = aside(tmp_path / "bad.jsonl")
    assert row["line"] == 52
    assert row["file"] == str(path)
    assert reason in str(row["reason"])
    assert str(row["text"]).encode("latin-1", "replace")[:3] == bad[:3]
    assert len(str(row["text"])) <= 10_000


def test_a_huge_line_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    with path.open("wb") as out:
        out.write(HEAD + GOOD)
        for _ in range(300):
            out.write(b"x" * (1 << 20))
        out.write(b"\n" + GOOD)
    code = f"""
import resource
from pathlib import Path
from millirec.data.sources import TableConfig, read
read(TableConfig(path={str(path.with_name("small.csv"))!r}))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
done = read(TableConfig(path={str(path)!r}), on_error="skip", rejected=Path({str(tmp_path / "bad")!r}))
print(done.rejected, len(done.interactions), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""
    path.with_name("small.csv").write_bytes(HEAD + GOOD)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rejected, events, grown = map(int, done.stdout.split())
    assert (rejected, events) == (1, 100)
    assert grown < 100, "MiB for a line of 300 MiB"


def test_an_endless_line_is_noticed_in_columns_that_nobody_reads(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"user,item,time,text\nu,i,1,short\nu,j,2," + b"x" * 2_000_000 + b"\n")
    with pytest.raises(DataError, match="line 3: a line of 2,000,007 bytes"):
        read(TableConfig(path=str(path)))


WHOLE_FILES = {
    "empty": (b"", "the file is empty"),
    "heading only": (HEAD, "no row can be read"),
    "blank": (b"\n\n\n", "line 1: empty"),
    "a name twice": (b"user,item,item,time\nu,i,j,3\n", "line 1: the heading names 'item' twice"),
    "unknown names": (b"who,what,when\nu,i,3\n", "which column is the user? there are who, what, when"),
    "binary": (b"\x00\x01\x02\xfe" * 100, "line 1:"),
    "a NUL in the heading": (b"us\x00er,item\nu,i\n", "line 1: a NUL byte"),
    "a JSON array": (b'[{"user": 1}]', "one JSON array"),
    "JSON without an object": (b"{broken\n{broken\n", "line 1: not a JSON object"),
    "half a parquet": (b"PAR1 and then nothing", "not a whole parquet file"),
}


@pytest.mark.parametrize("kind", WHOLE_FILES)
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_files_that_hold_no_log(tmp_path: Path, kind: str, on_error: str) -> None:
    content, reason = WHOLE_FILES[kind]
    path = tmp_path / "log.any"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(TableConfig(path=str(path)), on_error=on_error, rejected=tmp_path / "bad")  # type: ignore[arg-type]
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)
    assert caught.value.mend


def test_a_missing_column_names_those_that_exist(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(HEAD + GOOD)
    with pytest.raises(
        DataError, match=r"no column 'product' for the item; there are user, item, time, rating"
    ) as caught:
        read(TableConfig(path=str(path), columns=Columns(item="product")))
    assert "columns.item" in caught.value.mend


def test_truncated_archives_tell_how_far_they_go(tmp_path: Path) -> None:
    lines = HEAD + b"".join(b"u%d,i%d,%d,3\n" % (k, k * 7919 % 1000, 10**9 + k * k) for k in range(5000))
    packed = gzip.compress(lines)
    path = tmp_path / "log.csv.gz"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"log\.csv\.gz: the archive breaks off after line [\d,]+") as caught:
        read(TableConfig(path=str(path)), on_error="skip", rejected=tmp_path / "bad")
    told = int(str(caught.value).split("after line ")[1].split()[0].replace(",", ""))
    assert 1000 < told < 4000
    assert not (tmp_path / "bad").exists()

    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("ml/ratings.dat", "1::2::3::978300760\n" * 100)
    for cut, reason in ((len(held.getvalue()) - 30, "damaged or truncated archive"), (0, "empty")):
        (tmp_path / "ml.zip").write_bytes(held.getvalue()[:cut])
        with pytest.raises(DataError, match=reason):
            read(MovieLensConfig(path=str(tmp_path / "ml.zip")))


def test_a_flipped_byte_in_an_archive_is_noticed(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(HEAD + GOOD))
    packed[-6] ^= 1  # the checksum
    path = tmp_path / "log.csv.gz"
    path.write_bytes(packed)
    with pytest.raises(DataError, match="CRC"):
        read(TableConfig(path=str(path)))


@pytest.mark.parametrize(
    "kind", [TableConfig, MovieLensConfig, SequenceFileConfig, SessionConfig, LogConfig], ids=lambda kind: kind.__name__
)
def test_folders_and_missing_files_are_named(tmp_path: Path, kind: type) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    for path in (tmp_path, tmp_path / "no such"):
        with pytest.raises(DataError) as caught:
            read(kind(path=str(path)))
        assert str(path) in str(caught.value)
        assert caught.value.mend


def test_an_archive_of_several_tables_asks_for_one(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("a.csv", HEAD + GOOD)
        archive.writestr("b.csv", HEAD + GOOD)
    with pytest.raises(DataError, match=r"2 files \(a.csv, b.csv\)"):
        read(TableConfig(path=str(tmp_path / "all.zip")))


def test_bad_features_are_named_and_set_aside(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(HEAD + GOOD)
    (tmp_path / "items.csv").write_bytes(b"id,year\ni1,1999\ni2,long ago\ni1,2000\ni3,\n")
    table = FeatureTable(path=str(tmp_path / "items.csv"), features={"year": "numeric"})
    config = TableConfig(path=str(tmp_path / "log.csv"), items=table)
    with pytest.raises(DataError, match=r"items\.csv: line 3: `year` = long ago is not a number"):
        read(config)
    kept = read(config, on_error="skip", rejected=tmp_path / "bad")
    assert kept.rejected == 2
    assert [row["reason"] for row in aside(tmp_path / "bad")] == [
        "`year` = long ago is not a number",
        "the id 'i1' stands twice",
    ]
    years = kept.items.features["year"].numbers  # type: ignore[union-attr]
    assert years[kept.items.vocabulary.row("i1")] == 1999


def test_parquet_rows_are_checked_and_counted_as_rows(tmp_path: Path) -> None:
    pl.DataFrame({"user": [1, None, 3], "item": ["a", "b", "c"], "time": [1.5, 2.0, float("nan")]}).write_parquet(
        tmp_path / "log.parquet"
    )
    config = TableConfig(path=str(tmp_path / "log.parquet"))
    with pytest.raises(DataError, match="row 2: `user` is empty"):
        read(config)
    kept = read(config, on_error="skip", rejected=tmp_path / "bad")
    assert [row["row"] for row in aside(tmp_path / "bad")] == [2, 3]
    assert kept.users.vocabulary.ids == ("1",)
    assert kept.interactions.times.tolist() == [1500]


def test_bad_words_in_line_per_user_files(tmp_path: Path) -> None:
    path = tmp_path / "sequences.txt"
    path.write_bytes(b"1 2 3 4\n2\n3 \xff 5 6\n\n4 5 6 7\n5 " + b"9" * 1001 + b" 1\n6 1\x00 1\n")
    with pytest.raises(DataError, match="line 2: 1 field, at least 2 expected"):
        read(SequenceFileConfig(path=str(path)))
    kept = read(SequenceFileConfig(path=str(path)), on_error="skip", rejected=tmp_path / "bad")
    assert [row["line"] for row in aside(tmp_path / "bad")] == [2, 3, 6, 7]
    assert kept.users.vocabulary.ids == ("1", "4")


def test_rejected_rows_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(HEAD + GOOD + b"bad\n")
    with pytest.raises(DataError, match="cannot be written"):
        read(TableConfig(path=str(tmp_path / "log.csv")), on_error="skip", rejected=tmp_path)


# -- fuzzing: the right answer is known by construction ---------------------------------------------------------------

GOOD_ROW = st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(10**9, 10**9 + 1000)).map(
    lambda row: (f"u{row[0]}", f"i{row[1]}", row[2])
)
FEW_BAD = [line for kind, (line, _) in BAD_LINES.items() if kind != "ten million characters"]
BAD_JSON = [
    *(b"{", b'{"user": "u", "item": "i"}', b'{"user": "u", "item": "i", "time": "x"}', b"[1, 2]", b"12"),
    *(b'{"user": "u", "item": "i", "time": 1000000000} {}', b'{"user": "", "item": "i", "time": 1000000000}'),
    *(b'{"user": "u\xff", "item": "i", "time": 1000000000}', b'{"user": null, "item": "i", "time": 1000000000}'),
    *(b'{"user": "u", "item": "i", "time": -1}', b'{"user": "u", "item": "i", "time": 1e30}', b"[" * 5000),
]


def check_against_truth(path: Path, rows: list[tuple[str, str, int] | bytes], first_line: int) -> None:
    good = [row for row in rows if not isinstance(row, bytes)]
    bad = [number for number, row in enumerate(rows, start=first_line) if isinstance(row, bytes)]
    config, rejected = TableConfig(path=str(path), time_unit="s"), path.with_name("bad")
    if bad:
        with pytest.raises(DataError, match=f"line {bad[0]:,}: "):
            read(config)
    done = read(config, on_error="skip", rejected=rejected)
    log = done.interactions
    read_back = [
        (done.users.vocabulary.id(u), done.items.vocabulary.id(i), t // 1000)
        for u, i, t in zip(log.users.tolist(), log.items.tolist(), log.times.tolist(), strict=True)
    ]
    assert read_back == good
    assert done.rejected == len(bad)
    if bad:
        assert [row["line"] for row in aside(rejected)] == bad


@settings(max_examples=40, deadline=None)
@given(st.lists(GOOD_ROW | st.sampled_from(FEW_BAD), min_size=1, max_size=12), GOOD_ROW)
def test_csv_with_bad_lines_anywhere(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int] | bytes], sure: tuple[str, str, int]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "log.csv"
    rows = [*rows, sure]
    text = [
        row if isinstance(row, bytes) else b"%s,%s,%d,3" % (row[0].encode(), row[1].encode(), row[2]) for row in rows
    ]
    path.write_bytes(HEAD + b"\n".join(text) + b"\n")
    check_against_truth(path, rows, first_line=2)


@settings(max_examples=40, deadline=None)
@given(st.lists(GOOD_ROW | st.sampled_from(BAD_JSON), max_size=12), GOOD_ROW)
def test_json_lines_with_bad_lines_anywhere(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int] | bytes], sure: tuple[str, str, int]
) -> None:
    path = tmp_path_factory.mktemp("json") / "log.jsonl"
    rows = [sure, *rows]
    names = ("user", "item", "time")
    text = [row if isinstance(row, bytes) else json.dumps(dict(zip(names, row, strict=True))).encode() for row in rows]
    path.write_bytes(b"\n".join(text) + b"\n")
    check_against_truth(path, rows, first_line=1)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([b"", HEAD, b"1::2::3::4\n", b'{"user": 1, "item": 2}\n', b"PAR1"]))
def test_no_bytes_whatever_raise_anything_but_our_own_error(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, start: bytes
) -> None:
    folder = tmp_path_factory.mktemp("junk")
    path = folder / "log.dat"
    path.write_bytes(start + junk)
    for kind in (TableConfig, MovieLensConfig, SequenceFileConfig, SessionConfig):
        for on_error in ("fail", "skip"):
            message = ""
            try:
                done = read(kind(path=str(path)), on_error=on_error, rejected=folder / "bad")  # type: ignore[arg-type]
                assert len(done.interactions)
            except MillirecError as error:
                message = str(error)
            assert "\n" not in message
