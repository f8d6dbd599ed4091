"""The log of what was shown: durable, bounded, one file a process, whole after a crash."""

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from millirec.cascade.query import Ranking
from millirec.data.errors import ArtifactError, ConfigError
from millirec.engine.impressions import Impression, ImpressionLog, ImpressionSettings, files, impressions


def shown(name: str, **more: object) -> Impression:
    ranking = Ranking(
        items=("a", "b", "c"), scores=(2.0, 1.0, float("-inf")), source="sequence", request_id=name, **more
    )  # type: ignore[arg-type]
    return Impression.of(ranking, 2, ("sasrec", "v1"), time=7, user="ann", context={"page": "home"})


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path / "shown")
    assert log.note(shown("one"))
    assert log.note(shown("two", propensities=(0.5, 0.25, 1.0)))
    log.close()
    log.close()
    first, second = impressions(tmp_path / "shown")
    assert (first.request_id, first.items, first.propensities) == ("one", ("a", "b"), (1.0, 1.0))
    assert (first.user, first.session, first.context, first.time) == ("ann", None, {"page": "home"}, 7)
    assert second.propensities == (0.5, 0.25)
    assert (tmp_path / "shown").stat().st_mode & 0o077 == 0
    assert not log.note(shown("late"))
    assert log.dropped == 1


def test_unknown_items_have_no_score() -> None:
    ranking = Ranking(items=("a",), scores=(float("-inf"),), source="sequence", request_id="x")
    line = msgspec.json.encode(Impression.of(ranking, None, ("m", "v"), time=1))
    assert b'"scores":[null]' in line
    assert msgspec.json.decode(line, type=Impression).scores == (None,)


def test_what_was_noted_is_on_the_disk_soon_after_without_closing(tmp_path: Path) -> None:
    """A process that is killed once the line was flushed loses nothing."""
    code = f"""
import os, signal, sys, time
from pathlib import Path
from millirec.engine.impressions import ImpressionLog, ImpressionSettings, files
from tests.engine.test_impressions import shown
log = ImpressionLog(Path({str(tmp_path)!r}), ImpressionSettings(flush_seconds=0.01))
for n in range(500):
    log.note(shown(f"r{{n}}"))
while not files(log.folder)[0].read_bytes().count(b"\\n") == 500:
    time.sleep(0.005)
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], env=os.environ, timeout=60)
    assert run.returncode == -9
    assert [one.request_id for one in impressions(tmp_path)] == [f"r{n}" for n in range(500)]


def test_half_a_line_at_the_end_is_left_out_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path)
    log.note(shown("whole"))
    log.close()
    path = files(tmp_path)[0]
    with path.open("ab") as file:
        file.write(b'{"request_id":"ha')
    assert [one.request_id for one in impressions(tmp_path)] == ["whole"]
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(ArtifactError, match=r"jsonl:1: no impression"):
        list(impressions(tmp_path))


def test_too_many_waiting_are_dropped_and_counted(tmp_path: Path) -> None:
    log = ImpressionLog(tmp_path, ImpressionSettings(flush_seconds=60, max_pending=3))
    assert [log.note(shown(str(n))) for n in range(5)] == [True, True, True, False, False]
    log.close()
    assert log.dropped == 2
    assert len(list(impressions(tmp_path))) == 3


def test_old_files_make_room_but_not_those_in_use(tmp_path: Path) -> None:
    small = ImpressionSettings(flush_seconds=0.01, file_mb=0.001, keep_mb=0.004)
    other = ImpressionLog(tmp_path, ImpressionSettings(flush_seconds=0.01, file_mb=64, keep_mb=1e6))
    other.note(shown("kept"))
    log = ImpressionLog(tmp_path, small)
    for n in range(200):
        log.note(shown(f"r{n}"))
        if n % 5 == 0:
            time.sleep(0.02)
    log.close()
    other.close()
    assert sum(path.stat().st_size for path in files(tmp_path)) < 8_000
    names = [one.request_id for one in impressions(tmp_path)]
    assert names[0] == "kept"
    assert names[-1] == "r199"
    assert "r0" not in names
    assert log.dropped == 0


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="impressions cannot be written"):
        ImpressionLog(tmp_path / "file")


@pytest.mark.parametrize("name", ["flush_seconds", "max_pending", "file_mb", "keep_mb"])
def test_bad_settings_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        ImpressionSettings(**{name: 0})
