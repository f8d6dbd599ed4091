"""What only the store on a disk has to do: versions, reading only, damage, expiry."""

from pathlib import Path

import lmdb
import pytest

from millirec.data.errors import ArtifactError, ConfigError, UnavailableError
from millirec.data.event import Event
from millirec.engine.state import StateStore, StoreSettings

DAY = 86_400_000


def event(user: str, item: str, time: int) -> Event:
    return Event(user=user, item=item, time=time)


def test_a_store_is_as_it_was_after_opening_it_again(tmp_path: Path) -> None:
    with StateStore(tmp_path / "deep" / "data") as store:
        store.append([event("ann", "x", 1), event("ann", "y", 2)])
    with StateStore(tmp_path / "deep" / "data") as store:
        assert store.names() == ["x", "y"]
        store.append([event("ann", "z", 3)])
        assert store.history(b"u:ann").items.tolist() == [1, 2, 3]
        assert [sequence for sequence, _ in store.records()] == [0, 1, 2]
    with StateStore(tmp_path / "deep" / "data") as store:
        store.append([event("bob", "y", 4), event("bob", "new", 5), event("bob", "x", 6)])
        assert store.names() == ["x", "y", "z", "new"]
        assert store.history(b"u:bob").items.tolist() == [2, 4, 1]


def test_another_schema_is_refused(tmp_path: Path) -> None:
    StateStore(tmp_path).close()
    with lmdb.open(str(tmp_path), max_dbs=8) as env, env.begin(write=True) as txn:
        txn.put(b"schema", b"9", db=env.open_db(b"meta", txn=txn))
    for read_only in (False, True):
        with pytest.raises(ArtifactError, match="schema 9, this version reads 1"):
            StateStore(tmp_path, read_only=read_only)


def test_reading_only(tmp_path: Path) -> None:
    with StateStore(tmp_path) as store:
        store.append([event("ann", "x", 1)])
    with StateStore(tmp_path, read_only=True) as store:
        assert len(store.history(b"u:ann")) == 1
        assert len(list(store.records())) == 1
        with pytest.raises(UnavailableError, match="reading only"):
            store.append([event("ann", "x", 2)])


def test_reading_only_needs_a_data_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no")
    for name in ("missing", "file"):
        with pytest.raises(ArtifactError, match="no data folder"):
            StateStore(tmp_path / name, read_only=True)
    assert not (tmp_path / "missing").exists()


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(b"something else" * 1000)
    with pytest.raises(ArtifactError, match="cannot be opened as a data folder"):
        StateStore(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot be opened as a data folder"):
        StateStore(tmp_path / "file")


def test_a_folder_is_opened_once_in_a_process(tmp_path: Path) -> None:
    with StateStore(tmp_path), pytest.raises(ArtifactError, match="already open"):
        StateStore(tmp_path)


def test_a_temporary_folder_goes_on_close() -> None:
    store = StateStore.temporary()
    assert store.folder.is_dir()
    store.close()
    assert not store.folder.exists()


def test_a_state_expires_and_is_swept(tmp_path: Path) -> None:
    now = [1_000 * DAY]
    settings = StoreSettings(expire_after_days=30)
    with StateStore(tmp_path, settings, clock=lambda: now[0]) as store:
        store.append([event(f"old{n}", "x", 1) for n in range(2_500)])
        store.append([event("ann", "x", 1)])
        now[0] += 30 * DAY
        assert len(store.history(b"u:ann")) == 1
        store.append([event("bob", "y", 2)])
        assert store.sweep() == 0
        now[0] += 1
        assert len(store.history(b"u:ann")) == 0
        assert len(store.history(b"u:bob")) == 1
        store.append([event("ann", "z", 3)])
        assert [store.names()[code - 1] for code in store.history(b"u:ann").items] == ["z"]
        assert store.sweep() == 2_500
        assert store.sweep() == 0
        assert len(store.history(b"u:ann")) == len(store.history(b"u:bob")) == 1
        assert store.read([]).counters.records == 2_503


def test_without_expiry_nothing_is_swept(tmp_path: Path) -> None:
    with StateStore(tmp_path, clock=lambda: 0) as store:
        store.append([event("ann", "x", 1)])
        assert store.sweep() == 0


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"expire_after_days": 0}, r"\$\.expire_after_days = 0"),
        ({"max_pending": 0}, r"\$\.max_pending = 0"),
        ({"map_bytes": 5}, r"\$\.map_bytes = 5"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, float], path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        StoreSettings(**settings)
