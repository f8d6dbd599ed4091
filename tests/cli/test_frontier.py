"""`millirec frontier` as a person runs it: a run's TOML, two variants, a kill in the middle, and mistakes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from millirec.cli.frontier import frontier
from millirec.data.errors import MillirecError
from millirec.frontier.launch import ALLOCATOR
from tests.circle import write_run

RUN = """
[model]
kind = "gru4rec"
embedding_dim = 16
hidden_dim = 16
max_length = 8
[train]
epochs = 4
batch_size = 8
learning_rate = 0.02
"""

FRONTIER = """
name = "circle"
out = "{folder}/frontiers"
teacher = "{folder}/run.toml"
[measure]
rounds = 1
seconds = 0.5
warm_up = 0.1
connections = 4
known_users = 3
history = 4
[[variants]]
name = "forgetful"
[variants.engine]
carry_mb = 0
[limits]
max_p99_ms = 10000
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log, a run and a frontier that nobody has started yet."""
    folder = tmp_path_factory.mktemp("frontier")
    write_run(folder, RUN)
    (folder / "frontier.toml").write_text(FRONTIER.format(folder=folder))
    return folder


def killed_after_the_first_visit(folder: Path) -> list[Path]:
    """Starts the frontier and kills it as `kill -9` does once a server has been loaded; what it had kept."""
    command = [sys.executable, "-m", "millirec", "frontier", "-c", str(folder / "frontier.toml")]
    cache, deadline = folder / "frontiers" / "circle" / "cache", time.monotonic() + 150
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen(command, stdout=errors, stderr=errors, start_new_session=True)
        while not list(cache.glob("visits/*.json")):
            assert process.poll() is None, (folder / "errors").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    return sorted(cache.glob("*/*.json"))


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command would start this very process again to give it another allocator."""
    monkeypatch.setenv(ALLOCATOR, "none")


@pytest.mark.timeout(600)  # one whole run after another, on machines that may be busy
def test_a_killed_frontier_goes_on_and_chooses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {path: path.stat().st_mtime_ns for path in killed_after_the_first_visit(folder)}
    out = folder / "frontiers" / "circle"
    assert not (out / "frontier.json").exists()
    checkpoint = folder / "runs" / "circle" / "checkpoint" / "checkpoint.json"
    trained = checkpoint.stat().st_mtime_ns

    frontier(folder / "frontier.toml", None, json=True)
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert "1/2 load forgetful" in said.err  # of three visits one was there
    assert checkpoint.stat().st_mtime_ns == trained
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert [entry["figures"]["name"] for entry in found["variants"]] == ["teacher", "forgetful"]
    assert found == json.loads((out / "frontier.json").read_text())
    assert (out / "report.html").stat().st_size > 100_000
    name = found["choice"]["chosen"]
    assert name in ("teacher", "forgetful")
    assert (out / "chosen" / "manifest.json").exists()
    assert (out / "engine.toml").exists() == (name == "forgetful")

    config = (folder / "frontier.toml").read_text().replace("10000", "0.0001")
    (folder / "strict.toml").write_text(config)
    with pytest.raises(typer.Exit) as stopped:
        frontier(folder / "strict.toml", None, json=False)
    assert stopped.value.exit_code == 3
    said = capsys.readouterr()
    assert "nothing fits" in said.out
    assert "max_p99_ms" in said.out
    assert (out / "nearest" / "manifest.json").exists()
    assert not (out / "chosen").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rounds = 1", "rounds = 0", "$.measure.rounds"),
        ("max_p99_ms = 10000", "max_p99_ms = -1", "$.limits.max_p99_ms"),
        ('name = "forgetful"', 'name = "teacher"', "$.variants[0].name"),
        ('name = "forgetful"', 'name = "far"\ncheckpoint = "nowhere"', "$.variants[0] (far)"),
        ('name = "forgetful"', 'name = "two"\nranker = {}', "$.variants[0] (two): ranker: names no checkpoint"),
        ('name = "circle"', 'name = "circle"\nranker = "nowhere"', "$.ranker: nowhere holds none"),
        ("run.toml", "absent.toml", "absent.toml: cannot be read"),
        ("/run.toml", "/nowhere", "nowhere: neither a checkpoint nor a bundle"),
        ("[limits]", '[split]\nkind = "global-time"\n[limits]', "$.split"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, old: str, new: str, words: str
) -> None:
    text = FRONTIER.format(folder=folder).replace(f"{folder}/frontiers", str(tmp_path / "frontiers"))
    (tmp_path / "f.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(MillirecError) as error:
        frontier(tmp_path / "f.toml", None, json=False)
    assert words in str(error.value)
    assert not (tmp_path / "frontiers").exists()
