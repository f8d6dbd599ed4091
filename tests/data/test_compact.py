"""Compact logs: a data set comes back bit for bit, and nothing that was damaged or made up does harm."""

import resource
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millirec.data.catalog import Catalog, Categorical, Feature, MultiValued, Numeric, Text, Vocabulary
from millirec.data.compact import load_compact, save_compact
from millirec.data.compact.formats import compare
from millirec.data.compact.log import FileEntry, Head, read_head
from millirec.data.compact.packing import Reader, Writer
from millirec.data.compact.rows import Plain, Ranked, Runs
from millirec.data.compact.times import Moments, Stamps, grouped
from millirec.data.dataset import Dataset, Interactions
from millirec.data.errors import ArtifactError, DataError, MillirecError
from millirec.data.sources import CompactConfig, SimulatedConfig, read
from millirec.data.sources.guess import guess
from millirec.data.split import GlobalTime, split
from tests.logs import dataset_of

FILES = ("log.json", "events.bin", "items.bin", "users.bin")
IDS = st.one_of(st.text(max_size=4), st.integers(0, 10**20).map(str), st.integers(0, 99).map("item-{}".format))
TIMES = st.one_of(st.integers(0, 9), st.integers(0, 10**6).map(lambda s: s * 1000), st.integers(-(2**63), 2**63 - 1))
FLOATS = st.one_of(st.floats(width=32), st.sampled_from([1.0, 2.0, 5.0, -0.0]))


@st.composite
def features(draw: st.DrawFn, n: int) -> Feature:
    values = tuple(draw(st.lists(IDS, unique=True, min_size=1, max_size=4)))
    code = st.integers(0, len(values) - 1)
    match draw(st.sampled_from(["categorical", "multi", "numeric", "vector", "text"])):
        case "categorical":
            codes = draw(st.lists(st.integers(-1, len(values) - 1), min_size=n, max_size=n))
            return Categorical(values, np.array([-1, *codes], np.int32))
        case "multi":
            own = draw(st.lists(st.lists(code, max_size=3), min_size=n, max_size=n))
            offsets = np.cumsum([0, 0, *map(len, own)]).astype(np.int32)
            return MultiValued(values, np.array([code for codes in own for code in codes], np.int32), offsets)
        case "numeric":
            return Numeric(np.array(draw(st.lists(FLOATS, min_size=n + 1, max_size=n + 1)), np.float32))
        case "vector":
            numbers = draw(st.lists(FLOATS, min_size=2 * n + 2, max_size=2 * n + 2))
            return Numeric(np.array(numbers, np.float32).reshape(n + 1, 2))
        case _:
            return Text(("", *draw(st.lists(st.text(max_size=9), min_size=n, max_size=n))))


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    ids = draw(st.lists(IDS, unique=True, min_size=1, max_size=6))
    return Catalog(Vocabulary(ids), draw(st.dictionaries(st.text(max_size=3), features(len(ids)), max_size=2)))


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """Any log, in any order, of any times."""
    items, users = draw(catalogs()), draw(catalogs())
    n = draw(st.integers(0, 40))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=n, max_size=n))

    times = draw(st.sampled_from([TIMES, st.integers(0, 3)]))
    log = Interactions(
        np.array(column(st.integers(1, len(users))), np.int32),
        np.array(column(st.integers(1, len(items))), np.int32),
        np.array(column(times), np.int64),
        np.array(column(FLOATS), np.float32) if draw(st.booleans()) else None,
    )
    roles = np.array(column(st.integers(0, 3)), np.uint8)
    return Dataset(log, items, users, roles, draw(st.text(max_size=5)), draw(st.text(max_size=5)), timed=n % 2 == 0)


def same(a: Any, b: Any) -> bool:
    """Bit for bit, types included."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and bool(a == b)


def assert_same(found: Dataset, wanted: Dataset) -> None:
    for name in ("users", "items", "times", "values"):
        assert same(getattr(found.interactions, name), getattr(wanted.interactions, name)), name
    assert same(found.roles, wanted.roles)
    assert (found.name, found.protocol, found.timed) == (wanted.name, wanted.protocol, wanted.timed)
    for own, other in ((found.items, wanted.items), (found.users, wanted.users)):
        assert own.vocabulary.ids == other.vocabulary.ids
        assert list(own.features) == list(other.features)
        for name, feature in other.features.items():
            assert type(own.features[name]) is type(feature)
            for field in type(feature).__dataclass_fields__:
                assert same(getattr(own.features[name], field), getattr(feature, field)), (name, field)
    assert found.fingerprint == wanted.fingerprint


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(datasets())
def test_every_log_comes_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> None:
    folder = tmp_path_factory.mktemp("logs") / "log"
    save_compact(dataset, folder)
    assert_same(load_compact(folder), dataset)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), TIMES), min_size=1, max_size=30))
def test_every_form_gives_its_column_back(events: list[tuple[int, int]]) -> None:
    """Also where another form would be smaller."""
    users, times = (np.array(column, np.int64) for column in zip(*events, strict=True))
    for rows in (Plain, Ranked, Runs):
        parts = Writer()
        column = rows.of(users, 5, parts)
        assert column.read(5, len(users), Reader(np.frombuffer(parts.data(), np.uint8))).tolist() == users.tolist()
    narrow = users.astype(np.int32)
    for form in (Stamps.in_order("file"), Stamps.in_order("user"), Moments.of):
        parts = Writer()
        stamps = form(times, users, grouped(narrow), parts)
        assert stamps.read(narrow, 5, Reader(np.frombuffer(parts.data(), np.uint8))).tolist() == times.tolist()


def shuffled(n: int = 3000, seed: int = 0) -> Dataset:
    """Events of 40 users in no order at all, several at a time, with ratings."""
    rng = np.random.default_rng(seed)
    users = rng.integers(1, 41, n).astype(np.int32)
    times = (1_600_000_000 + users * 7919 + rng.integers(0, 50, n) * 60).astype(np.int64) * 1000
    items = (1 + 7 * np.minimum(rng.geometric(0.02, n), 199) % 200).astype(np.int32)
    log = Interactions(users, items, times, rng.integers(1, 6, n).astype(np.float32))
    catalog = Catalog(Vocabulary([f"i{i}" for i in range(200)]))
    return Dataset.of(log, catalog, Catalog(Vocabulary([f"u{i}" for i in range(40)])), "shuffled")


@pytest.fixture
def compact(tmp_path: Path) -> Path:
    save_compact(shuffled(), tmp_path / "log")
    return tmp_path / "log"


def test_forms_follow_the_log(tmp_path: Path) -> None:
    """In no order: items by frequency, times by user. User by user: runs. One clock for all: differences."""
    head = save_compact(shuffled(), tmp_path / "a")
    assert type(head.events.items).__name__ == "Ranked"
    assert type(head.events.times).__name__ == "Moments"
    head = save_compact(dataset_of([[1, 2, 3, 4, 5] * 20, [2, 3] * 40, [5, 4] * 30]), tmp_path / "b")
    assert type(head.events.users).__name__ == "Runs"
    rng = np.random.default_rng(1)
    log = shuffled().interactions
    ticking = Interactions(log.users, log.items, np.cumsum(rng.integers(0, 9, len(log))) * 1000)
    head = save_compact(Dataset.of(ticking, shuffled().items, shuffled().users), tmp_path / "c")
    assert msgspec.to_builtins(head.events.times)["order"] == "file"
    for name in "abc":
        load_compact(tmp_path / name)


def test_it_is_smaller_and_says_so(tmp_path: Path) -> None:
    dataset = shuffled(20_000)
    save_compact(dataset, tmp_path / "log")
    found = {format_.name: format_ for format_ in compare(dataset, tmp_path / "log", rounds=1)}
    assert list(found) == ["csv", "csv.gz", "parquet", "compact"]
    assert found["compact"].bytes == sum((tmp_path / "log" / name).stat().st_size for name in FILES)
    assert found["compact"].bytes < found["parquet"].bytes < found["csv"].bytes
    assert found["csv"].bytes_per_event == pytest.approx(found["csv"].bytes / 20_000, abs=1e-4)


def test_it_is_a_source_as_others_are(compact: Path) -> None:
    config = guess(compact)
    assert config == CompactConfig(path=str(compact))
    assert_same(read(config), shuffled())
    few = read(CompactConfig(path=str(compact), min_item_events=30))
    assert 0 < len(few.items) < 200
    assert np.bincount(few.interactions.items)[1:].min() >= 30


def test_features_and_a_given_split_come_along(tmp_path: Path) -> None:
    dataset = split(read(SimulatedConfig(users=50, items=60, events=2000, seed=3)), GlobalTime())
    assert dataset.items.features
    save_compact(dataset, tmp_path / "log")
    found = read(CompactConfig(path=str(tmp_path / "log")))
    assert_same(found, dataset)
    with pytest.raises(MillirecError, match="given test part"):
        read(CompactConfig(path=str(tmp_path / "log"), min_user_events=2))


def test_nothing_but_an_older_compact_log_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="no compact log"):
        save_compact(shuffled(), tmp_path / "mine")
    assert (tmp_path / "mine" / "photo.jpg").read_bytes() == b"x"
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(DataError, match="no compact log"):
        save_compact(shuffled(), tmp_path / "file")
    save_compact(shuffled(), tmp_path / "log")
    save_compact(shuffled(100), tmp_path / "log")
    assert len(load_compact(tmp_path / "log").interactions) == 100
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "file", "log"}


def test_rows_that_no_catalogue_knows_are_not_written(tmp_path: Path) -> None:
    log = shuffled().interactions
    wrong = Interactions(log.users, log.items + np.int32(1), log.times)
    with pytest.raises(DataError, match=r"item row is not in 1\.\.200"):
        save_compact(Dataset.of(wrong, shuffled().items, shuffled().users), tmp_path / "log")
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_cut_or_changed_is_refused(compact: Path, name: str) -> None:
    path = compact / name
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 25)):
        path.write_bytes(whole[:at])
        with pytest.raises(ArtifactError, match=name):
            load_compact(compact)
        changed = bytearray(whole)
        changed[at] ^= 4
        path.write_bytes(changed)
        with pytest.raises(ArtifactError, match=name):
            load_compact(compact)
    path.unlink()
    with pytest.raises(ArtifactError, match=name):
        load_compact(compact)


def test_another_version_and_other_things_are_refused(compact: Path, tmp_path: Path) -> None:
    head = read_head(compact)
    newer = msgspec.structs.replace(head, schema=2).sealed()
    (compact / "log.json").write_bytes(msgspec.json.encode(newer))
    with pytest.raises(ArtifactError, match="schema 2, this version of millirec reads 1"):
        load_compact(compact)
    for text in (b"[]", b'{"format": "other"}', b"\xff", b"[" * 100_000):
        (compact / "log.json").write_bytes(text)
        with pytest.raises(ArtifactError, match=r"log\.json"):
            load_compact(compact)
    with pytest.raises(ArtifactError, match="missing"):
        load_compact(tmp_path / "nowhere")


def forge(folder: Path, head: Head) -> None:
    """Write a head whose hashes all fit, as somebody with bad intentions would."""
    import hashlib

    files = {
        name: FileEntry(
            bytes=(folder / name).stat().st_size, sha256=hashlib.sha256((folder / name).read_bytes()).hexdigest()
        )
        for name in FILES[1:]
    }
    (folder / "log.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(head, files=files).sealed()))


def numbers_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every whole number in a JSON value."""
    if isinstance(value, dict | list):
        keys = value.items() if isinstance(value, dict) else enumerate(value)
        return [found for key, inner in keys for found in numbers_in(inner, (*path, key))]
    return [path] if type(value) is int else []


def test_no_number_in_the_head_does_harm(tmp_path: Path) -> None:
    """Whatever it says, with all hashes right: refused, or read as some log; never a crash, never much memory."""
    folder = tmp_path / "log"
    save_compact(split(read(SimulatedConfig(users=30, items=40, events=600, seed=3)), GlobalTime()), folder)
    plain = msgspec.to_builtins(read_head(folder))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    paths = [path for path in numbers_in(plain) if path[0] not in ("schema", "files")]
    assert len(paths) > 60
    refused = 0
    for path in paths:
        for wrong in (-1, 10**9, 2**63 - 1):
            forged = msgspec.json.decode(msgspec.json.encode(plain))
            *way, last = path
            inner = forged
            for key in way:
                inner = inner[key]
            if inner[last] == wrong:
                continue
            inner[last] = wrong
            forge(folder, msgspec.convert(forged, Head))
            try:
                load_compact(folder)
            except ArtifactError:
                refused += 1
    assert refused > len(paths)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(FILES[1:]), st.integers(0, 10**6), st.binary(min_size=1, max_size=8))
def test_no_bytes_in_the_columns_do_harm(compact: Path, name: str, at: int, wrong: bytes) -> None:
    head, whole = read_head(compact), (compact / name).read_bytes()
    at %= len(whole)
    (compact / name).write_bytes(whole[:at] + wrong + whole[at + len(wrong) :])
    forge(compact, head)
    try:
        dataset = load_compact(compact)
    except ArtifactError:
        pass
    else:
        log = dataset.interactions
        assert len(log) == 3000
        assert 1 <= log.users.min() <= log.users.max() <= len(dataset.users)
        assert 1 <= log.items.min() <= log.items.max() <= len(dataset.items)
    finally:
        (compact / name).write_bytes(whole)
        forge(compact, head)
