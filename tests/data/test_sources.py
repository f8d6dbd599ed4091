"""Readers: what is written comes back, in every format; the owners' files give the owners' counts."""

import gzip
import json
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.data.catalog import Categorical, MultiValued, Numeric, Text
from millirec.data.dataset import CONTEXT, TEST, TRAIN, VALIDATION, Dataset
from millirec.data.errors import ConfigError, DataError
from millirec.data.event import Event, ItemUpdate, Record, UserUpdate
from millirec.data.sources import (
    Columns,
    FeatureTable,
    LogConfig,
    MovieLensConfig,
    SequenceFileConfig,
    SessionConfig,
    SimulatedConfig,
    SourceConfig,
    TableConfig,
    read,
)
from millirec.engine.state import StateStore

Row = tuple[str, str, int, float]
WORD = st.text(
    st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp", "Zs"), blacklist_characters="\x85"),
    min_size=1,
    max_size=6,
)
ROWS = st.lists(
    st.tuples(WORD, WORD, st.integers(0, 2_000_000_000_000), st.integers(-5, 5).map(float)), min_size=1, max_size=20
)


def events(dataset: Dataset) -> list[tuple[str, str, int]]:
    log = dataset.interactions
    return [
        (dataset.users.vocabulary.id(u), dataset.items.vocabulary.id(i), t)
        for u, i, t in zip(log.users.tolist(), log.items.tolist(), log.times.tolist(), strict=True)
    ]


def write(path: Path, rows: list[Row]) -> Path:
    """A table of rows in the format that the name says."""
    frame = pl.DataFrame(rows, schema=["user", "item", "time", "rating"], orient="row")
    name = path.name
    plain = path.with_name(name.removesuffix(".gz").removesuffix(".zip"))
    if ".parquet" in name:
        frame.write_parquet(plain)
    elif ".jsonl" in name:
        plain.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dicts()))
    else:
        frame.write_csv(plain, separator="\t" if ".tsv" in name else ",")
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(plain.read_bytes()))
    elif name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(plain, plain.name)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.csv.gz", "a.jsonl.gz", "a.csv.zip"])
@settings(max_examples=25, deadline=None)
@given(ROWS)
def test_tables_come_back_as_written(tmp_path_factory: pytest.TempPathFactory, name: str, rows: list[Row]) -> None:
    path = write(tmp_path_factory.mktemp("table") / name, rows)
    dataset = read(TableConfig(path=str(path), time_unit="ms"))
    assert events(dataset) == [row[:3] for row in rows]
    assert dataset.interactions.values is not None
    assert dataset.interactions.values.tolist() == [row[3] for row in rows]
    assert list(dataset.users.vocabulary.ids) == list(dict.fromkeys(row[0] for row in rows))
    assert list(dataset.items.vocabulary.ids) == list(dict.fromkeys(row[1] for row in rows))


def test_columns_quotes_and_blank_lines_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b'\xef\xbb\xbfwhen;who;what\r\n5;"a;b";"x ""y"""\r\n\r\n6;"line\nbreak";z\r\n')
    columns = Columns(user="who", item="what", time="when")
    dataset = read(TableConfig(path=str(path), columns=columns, time_unit="s"))
    assert events(dataset) == [("a;b", 'x "y"', 5000), ("line\nbreak", "z", 6000)]
    assert dataset.interactions.values is None


def test_a_bad_line_changes_nothing_for_the_good_ones(tmp_path: Path) -> None:
    """The quick reader and the careful one agree."""
    rows = [(f"u{k % 5}", f'i"{k % 7}', 10**12 + k * k, k / 3) for k in range(500)]
    whole = write(tmp_path / "whole.csv", rows)
    (tmp_path / "bad.csv").write_bytes(whole.read_bytes() + b"u,i,never,1\n")
    quick = read(TableConfig(path=str(whole)))
    careful = read(TableConfig(path=str(tmp_path / "bad.csv")), on_error="skip", rejected=tmp_path / "aside")
    assert events(quick) == events(careful)
    np.testing.assert_array_equal(quick.interactions.values, careful.interactions.values)
    assert careful.rejected == 1


@pytest.mark.parametrize(
    ("texts", "unit", "expected"),
    [
        (["1396437466.94", "5"], "s", [1396437466940, 5000]),
        (["1396437466940"], "auto", [1396437466940]),
        (["1396437466"], "auto", [1396437466000]),
        (["1396437466940123"], "auto", [1396437466940]),
        (["1396437466940123456"], "auto", [1396437466940]),
        (["1396437466940999"], "us", [1396437466940]),
        ([" 7 "], "ms", [7]),
        (["2014-04-02T11:17:46.940Z"], "auto", [1396437466940]),
        (["2014-04-02 11:17:46"], "iso", [1396437466000]),
        (["2014-04-02T13:17:46+02:00", "2014-04-02"], "iso", [1396437466000, 1396396800000]),
    ],
)
def test_times_become_milliseconds(tmp_path: Path, texts: list[str], unit: str, expected: list[int]) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\n" + "".join(f"u,i,{text}\n" for text in texts))
    assert read(TableConfig(path=str(path), time_unit=unit)).interactions.times.tolist() == expected  # type: ignore[arg-type]


def test_typed_times_of_parquet(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": [1, 2], "item": [3, 4], "time": [1396437466940, 0]})
    naive = frame.with_columns(pl.col("time").cast(pl.Datetime("ms")))
    zoned = naive.with_columns(pl.col("time").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"))
    for number, table in enumerate((naive, zoned)):
        table.write_parquet(tmp_path / f"{number}.parquet")
        assert events(read(TableConfig(path=str(tmp_path / f"{number}.parquet")))) == [
            ("1", "3", 1396437466940),
            ("2", "4", 0),
        ]


def test_without_times_file_order_counts(tmp_path: Path) -> None:
    path = tmp_path / "log.tsv"
    path.write_text("7\ta\n3\tb\n7\tc\n")
    dataset = read(TableConfig(path=str(path), header=False, columns=Columns(user="1", item="2")))
    assert events(dataset) == [("7", "a", 0), ("3", "b", 1), ("7", "c", 2)]
    assert not dataset.timed


def test_other_encodings_when_named(tmp_path: Path) -> None:
    for encoding in ("latin-1", "utf-16"):
        path = tmp_path / f"{encoding}.csv"
        path.write_text("user,item,time\nAmélie,ü,7\n", encoding=encoding)
        dataset = read(TableConfig(path=str(path), encoding=encoding, time_unit="ms"))  # type: ignore[arg-type]
        assert events(dataset) == [("Amélie", "ü", 7)]


def test_a_folder_of_parquet_parts_is_read_in_order(tmp_path: Path) -> None:
    for number, rows in enumerate(([("b", "x", 5, 1.0)], [("a", "y", 4, 1.0)])):
        write(tmp_path / f"part-{number}.parquet", rows)
    assert events(read(TableConfig(path=str(tmp_path), time_unit="ms"))) == [("b", "x", 5), ("a", "y", 4)]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_features_of_every_kind(tmp_path: Path, kind: str) -> None:
    log = write(tmp_path / "log.csv", [("u1", "b", 1, 1.0), ("u2", "a", 2, 1.0), ("u1", "c", 3, 1.0)])
    table = pl.DataFrame(
        {
            "id": ["a", "b", "unseen"],
            "colour": ["red", None, "green"],
            "tags": [["x", "y"], [], ["z"]],
            "year": [1999.0, None, 1.0],
            "title": ["A, the first", None, "?"],
        }
    )
    path = tmp_path / f"items.{kind}"
    if kind == "parquet":
        table.with_columns(vector=pl.Series([[1.0, 2.0], None, [3.0, 4.0]])).write_parquet(path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_dicts()))
    else:
        table.with_columns(pl.col("tags").list.join("|")).write_csv(path)
    declared = {"colour": "categorical", "tags": "multi", "year": "numeric", "title": "text"}
    if kind == "parquet":
        declared["vector"] = "numeric"
    features = FeatureTable(path=str(path), features=declared)  # type: ignore[arg-type]
    items = read(TableConfig(path=str(log), items=features)).items
    assert items.vocabulary.ids == ("b", "a", "c")
    colour, tags, year, title = (items.features[name] for name in ("colour", "tags", "year", "title"))
    assert isinstance(colour, Categorical)
    assert colour.codes.tolist() == [-1, -1, colour.values.index("red"), -1]
    assert isinstance(tags, MultiValued)
    assert items.matches("tags", "x").tolist() == items.matches("tags", "y").tolist() == [False, False, True, False]
    assert tags.offsets.tolist() == [0, 0, 0, 2, 2]
    assert isinstance(year, Numeric)
    np.testing.assert_array_equal(year.numbers, np.array([np.nan, np.nan, 1999, np.nan], np.float32))
    assert title == Text(("", "", "A, the first", ""))
    if kind == "parquet":
        vector = items.features["vector"]
        assert isinstance(vector, Numeric)
        np.testing.assert_array_equal(vector.numbers[2], [1, 2])
        assert vector.numbers.shape == (4, 2)
        assert np.isnan(vector.numbers[[0, 1, 3]]).all()


# -- MovieLens ---------------------------------------------------------------------------------------------------------

DAT = "1::10::5::978300760\n2::20::3::978300000\n1::20::4::978300761\n"
MOVIES = "10::Amélie (2001)::Comedy|Romance\n20::Up: A::B (1999)::Drama\n30::Never seen (1950)::Drama\n"
PEOPLE = "1::F::1::10::48067\n2::M::56::16::70072\n"


def movielens(folder: Path, edition: str) -> Path:
    folder.mkdir(parents=True)
    if edition == "dat":
        (folder / "ratings.dat").write_text(DAT)
        (folder / "movies.dat").write_text(MOVIES.replace("Up: A::B", "Up"), encoding="latin-1")
        (folder / "users.dat").write_text(PEOPLE)
    elif edition == "100k":
        rows = [line.split("::") for line in DAT.splitlines()]
        (folder / "u.data").write_text("".join("\t".join(row) + "\n" for row in rows))
        flags = {10: [5, 14], 20: [8]}
        (folder / "u.item").write_text(
            "".join(
                f"{i}|{title}|01-Jan-1995||http://x|{'|'.join('1' if g in flags[i] else '0' for g in range(19))}\n"
                for i, title in ((10, "Amélie (2001)"), (20, "Up (1999)"))
            ),
            encoding="latin-1",
        )
        (folder / "u.user").write_text("1|1|F|10|48067\n2|56|M|16|70072\n")
    else:
        rows = [line.split("::") for line in DAT.splitlines()]
        head = "userId,movieId,rating,timestamp\n" if edition == "csv" else ""
        (folder / "ratings.csv").write_text(head + "".join(",".join(row) + "\n" for row in rows))
        (folder / "movies.csv").write_text(
            'movieId,title,genres\n10,"Amélie (2001)",Comedy|Romance\n20,Up (1999),Drama\n'
        )
    return folder


@pytest.mark.parametrize("edition", ["dat", "100k", "csv", "headless csv"])
@pytest.mark.parametrize("packing", ["folder", "zip", "gz", "file"])
def test_movielens_editions_in_every_packing(tmp_path: Path, edition: str, packing: str) -> None:
    folder = movielens(tmp_path / "ml-mine", edition)
    path = folder
    if packing == "zip":
        path = tmp_path / "ml-mine.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("ml-mine/", "")
            for file in folder.iterdir():
                archive.write(file, f"ml-mine/{file.name}")
    elif packing == "gz":
        for file in list(folder.iterdir()):
            (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    elif packing == "file":
        path = next(f for f in folder.iterdir() if f.name.startswith(("ratings", "u.data")))
    dataset = read(MovieLensConfig(path=str(path)))
    assert events(dataset) == [("1", "10", 978300760000), ("2", "20", 978300000000), ("1", "20", 978300761000)]
    assert dataset.interactions.values is not None
    assert dataset.interactions.values.tolist() == [5, 3, 4]
    assert dataset.name == "ml-mine"
    assert dataset.items.features["title"] == Text(("", "Amélie (2001)", "Up (1999)"))
    assert dataset.items.matches("genres", "Romance").tolist() == [False, True, False]
    assert dataset.items.matches("genres", "Drama").tolist() == [False, False, True]
    year = dataset.items.features["year"]
    assert isinstance(year, Numeric)
    assert year.numbers[1:].tolist() == [2001, 1999]
    if edition in ("dat", "100k"):
        assert dataset.users.matches("gender", "F").tolist() == [False, True, False]
        assert dataset.users.matches("age", "56").tolist() == [False, False, True]
        assert dataset.users.matches("occupation", "16").tolist() == [False, False, True]


@pytest.mark.parametrize("line", ["1::2::3", "1::2::3::4::5", "1:2::3::4", "1::2::3::4:", "1::2:5::3::978300760"])
def test_double_colons_are_counted_exactly(tmp_path: Path, line: str) -> None:
    path = tmp_path / "ratings.dat"
    path.write_text(DAT + line + "\n")
    if line == "1::2:5::3::978300760":  # one colon is part of the id
        assert events(read(MovieLensConfig(path=str(path))))[-1] == ("1", "2:5", 978300760000)
        return
    with pytest.raises(DataError, match="line 4: "):
        read(MovieLensConfig(path=str(path)))


# -- sequences and sessions --------------------------------------------------------------------------------------------


def test_a_user_a_line_with_attributes(tmp_path: Path) -> None:
    (tmp_path / "Toys.txt").write_text("1 5 6 7\n2 6 8\n")
    (tmp_path / "Toys_item2attributes.json").write_text('{"6": [1, 2, 1], "8": ["x"], "99": [3]}')
    dataset = read(SequenceFileConfig(path=str(tmp_path / "Toys.txt")))
    assert [(u, i) for u, i, _ in events(dataset)] == [("1", "5"), ("1", "6"), ("1", "7"), ("2", "6"), ("2", "8")]
    assert dataset.items.matches("attributes", "1").tolist() == [False, False, True, False, False]
    attributes = dataset.items.features["attributes"]
    assert isinstance(attributes, MultiValued)
    assert attributes.offsets.tolist() == [0, 0, 0, 2, 2, 3]


def test_pairs_and_lines_tell_the_same(tmp_path: Path) -> None:
    lines = [("7", ["a", "b", "c"]), ("3", ["b", "a", "d"])]
    (tmp_path / "lines.txt").write_text("".join(f"{user} {' '.join(items)}\n" for user, items in lines))
    (tmp_path / "pairs.txt").write_text("".join(f"{user} {item}\n" for user, items in lines for item in items))
    one, two = (read(SequenceFileConfig(path=str(tmp_path / f"{name}.txt"))) for name in ("lines", "pairs"))
    assert events(one) == events(two)
    assert one.fingerprint == two.fingerprint


def test_a_given_test_file_gives_the_roles(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("1 5 6 7\n2 6 8\n3 9\n")
    (tmp_path / "test.txt").write_text("1 8\n3 5 6\n")
    dataset = read(
        SequenceFileConfig(path=str(tmp_path / "train.txt"), test=str(tmp_path / "test.txt"), validation=0.5)
    )
    # Of the two users with two training events or more, the last half (user 2) validates with its last event.
    assert dataset.roles.tolist() == [TRAIN, TRAIN, TRAIN, TRAIN, VALIDATION, TRAIN, TEST, TEST, TEST]
    assert dataset.protocol == "given (validation=0.5: last events)"
    with pytest.raises(ConfigError, match="given test part"):
        read(SequenceFileConfig(path=str(tmp_path / "train.txt"), test=str(tmp_path / "test.txt"), min_user_events=2))


def test_session_tables_with_a_test_file(tmp_path: Path) -> None:
    (tmp_path / "clicks_train_full.txt").write_text(
        "SessionId\tItemId\tTime\n1\ta\t1.5\n1\tb\t2\n2\tb\t3\n2\ta\t4\n2\tb\t5\n"
    )
    (tmp_path / "clicks_test.txt").write_text("SessionId\tItemId\tTime\n9\tb\t5\n9\tc\t6\n")
    dataset = read(SessionConfig(path=str(tmp_path), validation=0.5))
    assert events(dataset)[:2] == [("1", "a", 1500), ("1", "b", 2000)]
    assert dataset.roles.tolist() == [TRAIN, TRAIN, TRAIN, VALIDATION, VALIDATION, TEST, TEST]  # as the test asks
    assert dataset.protocol == "given (validation=0.5: all events)"
    alone = read(SessionConfig(path=str(tmp_path / "clicks_test.txt")))
    assert (alone.protocol, len(alone.interactions)) == ("none", 2)


def test_session_lines_with_prefix_and_target(tmp_path: Path) -> None:
    (tmp_path / "train_sessions.txt").write_text("1 2 3\n4\n2 2\n")
    (tmp_path / "test_prefix_target.txt").write_text("1 2\t3\n4\t1\n")
    (tmp_path / "test_sessions_timed.txt").write_text("1:5 2:6\n")
    dataset = read(SessionConfig(path=str(tmp_path), validation=0.5))
    assert [(u, i) for u, i, _ in events(dataset)] == [
        *(("1", "1"), ("1", "2"), ("1", "3"), ("2", "4"), ("3", "2"), ("3", "2")),
        *(("test-1", "1"), ("test-1", "2"), ("test-1", "3"), ("test-2", "4"), ("test-2", "1")),
    ]
    assert dataset.roles.tolist() == [TRAIN] * 5 + [VALIDATION, CONTEXT, CONTEXT, TEST, CONTEXT, TEST]
    assert dataset.popularity.tolist() == [0, 1, 2, 1, 1]
    timed = read(SessionConfig(path=str(tmp_path / "test_sessions_timed.txt")))
    assert events(timed) == [("1", "1", 5), ("1", "2", 6)]


# -- the server's log --------------------------------------------------------------------------------------------------


def test_the_servers_own_log_comes_back(tmp_path: Path) -> None:
    records: list[Record] = [
        Event(user="u", item="b", time=2_000, value=4.0),
        ItemUpdate(item="a", time=1, fields={"colour": "red", "tags": ["x", "y"], "price": 3, "title": "A long one"}),
        Event(session="u", item="a", time=1_000, action="click"),
        Event(user="u", item="b", time=3_000),
        ItemUpdate(item="a", time=2, fields={"colour": "blue", "new": True}),
        UserUpdate(user="u", time=3, fields={"country": "CH"}),
    ]
    with StateStore(tmp_path / "data") as store:
        store.append(records)
    dataset = read(LogConfig(path=str(tmp_path / "data")))
    assert events(dataset) == [("u", "b", 2000), ("session:u", "a", 1000), ("u", "b", 3000)]
    np.testing.assert_array_equal(dataset.interactions.values, np.array([4, np.nan, np.nan], np.float32))
    kinds = {name: feature.kind for name, feature in dataset.items.features.items()}
    assert kinds == {
        "colour": "categorical",
        "tags": "multi",
        "price": "numeric",
        "title": "text",
        "new": "categorical",
    }
    assert dataset.items.matches("colour", "blue").tolist() == [False, False, True]
    assert not dataset.items.matches("colour", "red").any()
    assert dataset.users.matches("country", "CH").tolist() == [False, True, False]
    clicks = read(LogConfig(path=str(tmp_path / "data"), actions=("click",)))
    assert events(clicks) == [("session:u", "a", 1000)]
    with pytest.raises(DataError, match="no events"):
        read(LogConfig(path=str(tmp_path / "data"), actions=("buy",)))


# -- filters and configs -----------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=60),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_filters_leave_the_largest_stable_part(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[int, int]], least_user: int, least_item: int
) -> None:
    expected = [(str(u), str(i)) for u, i in pairs]
    while True:  # the definition, spelled out
        users, items = [u for u, _ in expected], [i for _, i in expected]
        kept = [(u, i) for u, i in expected if users.count(u) >= least_user and items.count(i) >= least_item]
        if kept == expected:
            break
        expected = kept
    path = tmp_path_factory.mktemp("core") / "pairs.txt"
    path.write_text("".join(f"{u} {i}\n" for u, i in pairs))
    path.with_name("pairs_item2attributes.json").write_text(json.dumps({str(i): [i, "all"] for i in range(1, 9)}))
    config = SequenceFileConfig(path=str(path), layout="pairs", min_user_events=least_user, min_item_events=least_item)
    if not expected:
        with pytest.raises(DataError, match="nothing is left"):
            read(config)
        return
    dataset = read(config)
    assert [(u, i) for u, i, _ in events(dataset)] == expected
    assert list(dataset.items.vocabulary.ids) == list(dict.fromkeys(i for _, i in expected))
    for item in dataset.items.vocabulary.ids:
        assert np.flatnonzero(dataset.items.matches("attributes", item)).tolist() == [
            dataset.items.vocabulary.row(item)
        ]


def test_after_a_filter_rows_follow_the_first_appearance_of_what_is_left(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text("9 b\n1 a\n1 b\n2 c\n2 a\n")
    dataset = read(SequenceFileConfig(path=str(path), min_user_events=2))
    assert dataset.items.vocabulary.ids == ("a", "b", "c")
    assert dataset.users.vocabulary.ids == ("1", "2")
    assert [(u, i) for u, i, _ in events(dataset)] == [("1", "a"), ("1", "b"), ("2", "c"), ("2", "a")]


def test_configs_go_through_plain_data_and_refuse_nonsense() -> None:
    configs: list[SourceConfig] = [
        MovieLensConfig(path="x"),
        TableConfig(path="x", items=FeatureTable(path="y", features={"a": "text"})),
        SequenceFileConfig(path="x"),
        SessionConfig(path="x"),
        LogConfig(path="x", actions=("buy",)),
        SimulatedConfig(users=3),
    ]
    for config in configs:
        assert msgspec.convert(msgspec.to_builtins(config), SourceConfig) == config
    for wrong in ({"kind": "table", "path": "x", "colour": 1}, {"kind": "none"}, {"kind": "movielens"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, SourceConfig)
    with pytest.raises(ConfigError, match="min_item_events"):
        MovieLensConfig(path="x", min_item_events=0)
    with pytest.raises(ConfigError, match="validation"):
        SessionConfig(path="x", validation=1)


# -- the owners' files -------------------------------------------------------------------------------------------------

OWNED = {
    "ml-1m": (MovieLensConfig, "ml-1m", 1_000_209, 6_040, 3_706),
    "ml-100k": (MovieLensConfig, "ml-100k", 100_000, 943, 1_682),
    "ml-latest-small": (MovieLensConfig, "ml-latest-small", 100_004, 671, 9_066),
    "Beauty": (SequenceFileConfig, "s3rec-beauty/Beauty.txt.gz", 198_502, 22_363, 12_101),
    "LastFM": (SequenceFileConfig, "s3rec-lastfm/LastFM.txt", 52_551, 1_090, 3_646),
    "bert4rec": (SequenceFileConfig, "amazon-beauty-bert4rec/beauty.txt.gz", 353_962, 40_226, 54_542),
    "reviews": (TableConfig, "reviews-musical-instruments/Musical_Instruments.json.gz", 10_261, 1_429, 900),
    "yoochoose-timed": (SessionConfig, "session-yoochoose-100k-timed", 83_846, None, None),
}


@pytest.mark.parametrize("name", OWNED)
def test_the_owners_counts(shared_data: Path, name: str) -> None:
    kind, where, n_events, n_users, n_items = OWNED[name]
    dataset = read(kind(path=str(shared_data / where)))
    assert len(dataset.interactions) == n_events
    assert n_users in (None, len(dataset.users))
    assert n_items in (None, len(dataset.items))


def test_prefix_target_sessions_of_the_owners(shared_data: Path) -> None:
    dataset = read(SessionConfig(path=str(shared_data / "session-yoochoose1_64")))
    with gzip.open(shared_data / "session-yoochoose1_64" / "test_prefix_target.txt.gz", "rt") as lines:
        n_targets = sum(1 for _ in lines)
    assert (dataset.roles == TEST).sum() == n_targets
    assert np.isin(dataset.roles, (TRAIN, VALIDATION)).sum() == 486_026
