"""The quick path (Polars) and the careful one (line by line) read the same from the same file, whatever is in it."""

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.data.errors import DataError
from millirec.data.sources import TableConfig, files, lines, read

CSV_PIECES = [
    *('"', '""', "a", "b", "é", " ", "1", "\n", "\r\n", "\r", ",", ",,"),
    *("a,b,1\n", '"a",b,2\n', '"x\ny",b,3\n', "c,d,4,\n", '"q""q",b,5\n'),
]
JSON_PIECES = [
    *('{"user":"a","item":"b","time":1}', '{"user":1,"item":2.5,"time":"3"}', '{"user":"a","item":"b","time":1e3}'),
    *('{"user":true,"item":null,"time":1}', '{"item":"b","user":"\\u00e9\\n","time":2}', "[]", "null", '"a"'),
    *('{"user":"a","item":"b","time":12345678901234567890}', '{"user":1e400,"item":"b","time":1}'),
    *('{"user":-0,"item":0.10,"time":1}', '{"user":01,"item":"b","time":1}', '{"user":3.0,"item":1e2,"time":1}'),
    *("\n", "\n", " ", "x", ","),
]


def outcome(path: Path, *, quick: bool) -> object:
    with pytest.MonkeyPatch.context() as patch:
        if not quick:
            patch.setattr(lines, "clean", lambda path: False)
        try:
            data = read(TableConfig(path=str(path), time_unit="ms"), on_error="skip", rejected=path.with_name("bad"))
        except DataError as error:
            return str(error)
    log = data.interactions
    ids = data.users.vocabulary.ids, data.items.vocabulary.ids
    return ids, log.users.tolist(), log.items.tolist(), log.times.tolist(), data.rejected


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(CSV_PIECES), max_size=14).map("".join))
def test_csv(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("csv") / "log.csv"
    path.write_bytes(b"user,item,time\n" + text.encode())
    assert outcome(path, quick=True) == outcome(path, quick=False)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(JSON_PIECES), max_size=8).map("".join))
def test_json_lines(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("json") / "log.jsonl"
    path.write_bytes(b'{"user":"a","item":"b","time":7}\n' + text.encode())
    assert outcome(path, quick=True) == outcome(path, quick=False)


def test_two_stray_quotes_do_not_swallow_what_stands_between_them(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    good = [f"u{k},i{k},{k}\n" for k in range(30)]
    path.write_text('user,item,time\n"u,i,1\n' + "".join(good) + '"u,i,2\n' + good[0])
    data = read(TableConfig(path=str(path), time_unit="ms"), on_error="skip", rejected=tmp_path / "bad")
    assert (len(data.interactions), data.rejected) == (31, 2)


def test_quotes_and_lines_across_the_chunks_of_a_large_file(tmp_path: Path) -> None:
    """More than one chunk of 4 MiB, with quoted fields, so that a state carried wrongly would show."""
    path = tmp_path / "log.csv"
    row = '"u ""{}""","i\n,{}",{}\n'
    n = 250_000
    path.write_text("user,item,time\n" + "".join(row.format(k % 977, k % 1009, k) for k in range(n)))
    assert path.stat().st_size > 5 << 20
    assert files.well_quoted(path, b",")
    data = read(TableConfig(path=str(path), time_unit="ms"))
    assert len(data.interactions) == n
    assert data.users.vocabulary.ids[5] == 'u "5"'
    assert data.items.vocabulary.ids[7] == "i\n,7"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([b'"', b'""', b",", b"\n", b"\r\n", b"a", "é".encode(), b"\xff"])).map(b"".join),
    st.integers(1, 9),
)
def test_checks_in_chunks_see_what_they_see_at_once(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("chunks") / "log.csv"
    path.write_bytes(raw)
    at_once = files.clean(path), files.well_quoted(path, b",")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_CHUNK", chunk)
        assert (files.clean(path), files.well_quoted(path, b",")) == at_once
        patch.setattr(files, "MAX_LINE", 3)
        fits = max(map(len, io.BytesIO(raw).readlines()), default=0) <= 3
        assert files.clean(path) == (at_once[0] and fits)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'"a","b"\n', True),
        (b'"a ""x"" b",2\n', True),
        (b'"a\nb",\n""', True),
        (b'""""', True),
        (b'a"b,c', False),
        (b'"a"b,c', False),
        (b'"a" ,c', False),
        (b'"a', False),
    ],
)
def test_what_is_well_quoted(tmp_path: Path, raw: bytes, expected: bool) -> None:
    (tmp_path / "x").write_bytes(raw)
    assert files.well_quoted(tmp_path / "x", b",") is expected


def test_an_empty_field_too_many_in_the_very_last_line(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\na,b,1\na,c,2,")
    with pytest.raises(DataError, match="line 3: 4 fields instead of 3"):
        read(TableConfig(path=str(path)))
