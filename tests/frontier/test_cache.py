"""Finished work is found again, half-made work is not."""

from pathlib import Path

import msgspec

from millirec.frontier.cache import Cache, key_of, write_whole


class Thing(msgspec.Struct):
    n: int


def test_work_is_done_once_for_each_key(tmp_path: Path) -> None:
    made = []

    def make() -> Thing:
        made.append(1)
        return Thing(len(made))

    for cache in (Cache(tmp_path / "c"), Cache(tmp_path / "c")):  # another run
        assert cache.kept(Thing, "things", "a", make).n == 1
        assert cache.has("things", "a")
        assert not cache.has("things", "b")
    assert Cache(tmp_path / "c").kept(Thing, "things", "b", make).n == 2


def test_an_entry_that_cannot_be_read_is_made_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for broken in (b"", b'{"m": 1}', b"{"):
        cache.place("things", "a").with_suffix(".json").write_bytes(broken)
        assert cache.kept(Thing, "things", "a", lambda: Thing(5)).n == 5


def test_what_a_killed_run_left_half_made_goes(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    done = cache.place("bundles", "aa")
    done.mkdir()
    (tmp_path / "bundles" / ".bb.1234abcd").mkdir()
    (tmp_path / "bundles" / ".cc.json.new").write_text("{")
    (done / ".progress.old").mkdir()  # the only copy there is, between two renames
    cache.tidy()
    assert [path.name for path in (tmp_path / "bundles").iterdir()] == ["aa"]
    assert (done / ".progress.old").is_dir()


def test_keys_tell_everything_apart() -> None:
    keys = [key_of(*parts) for parts in ((), ("a",), ("a", "b"), ("ab",), (1,), ("1",), ({"x": 1},), ({"x": 2},))]
    assert len(set(keys)) == len(keys)
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text("old")
    write_whole(path, b"new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
