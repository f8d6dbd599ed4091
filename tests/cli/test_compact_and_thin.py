"""`millirec data compress`, and a run on a compact log with [thin]."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from millirec.cli.artifact import Artifact
from millirec.cli.main import app
from millirec.data.dataset import CONTEXT
from millirec.data.errors import DataError
from millirec.data.sources import CompactConfig, TableConfig, read
from millirec.frontier.launch import ALLOCATOR
from millirec.models.checkpoint import Checkpoint
from tests.logs import cycle

RUN = """
name = "{name}"
out = "{folder}/runs"
[data]
kind = "compact"
path = "{folder}/log"
[model]
kind = "markov"
"""


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """People who walk a circle, one of them twice, and a bot that does so once a second; as csv and compact."""
    monkeypatch.setenv(ALLOCATOR, "as it is")  # else training starts the process again
    log = cycle().interactions
    seconds = 1_600_000_000 + np.random.default_rng(0).integers(1, 5000, len(log)).cumsum()
    rows = [f"u{u},i{i},{t}" for u, i, t in zip(log.users, log.items, seconds, strict=True)]
    rows += [f"bot,i{1 + (5 * n) % 12},{1_600_000_000 + n}" for n in range(300)]
    rows += [f"twin,i{i},{1_600_000_000 + n**2}" for n, i in enumerate(log.items[log.users == 1])]
    (tmp_path / "events.csv").write_text("\n".join(["user,item,time", *rows]) + "\n")
    invoke("data", "compress", tmp_path / "events.csv", "-o", tmp_path / "log", "--no-compare")
    return tmp_path


def test_compressing_tells_sizes_and_times(folder: Path) -> None:
    told = json.loads(invoke("data", "compress", folder / "events.csv", "-o", folder / "log", "--json"))
    assert told["events"] == 669
    assert [found["name"] for found in told["formats"]] == ["csv", "csv.gz", "parquet", "compact"]
    assert all(found["load_seconds"] > 0 for found in told["formats"])
    size = sum(path.stat().st_size for path in (folder / "log").iterdir())
    assert told["formats"][-1]["bytes"] == size
    assert told["formats"][-1]["bytes_per_event"] == pytest.approx(size / 669, abs=1e-4)
    own, other = read(CompactConfig(path=str(folder / "log"))), read(TableConfig(path=str(folder / "events.csv")))
    assert own.fingerprint == other.fingerprint


def test_a_place_that_is_taken_is_refused_before_anything_is_read(folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "letter").write_text("dear")
    with pytest.raises(DataError, match="mine: exists and is no compact log"):
        invoke("data", "compress", folder / "absent.csv", "-o", folder / "mine")


def test_a_thinned_run_asks_the_same_and_says_what_it_left_out(folder: Path) -> None:
    for name, thin in (("plain", ""), ("thinned", "[thin.bots]\n[thin.duplicates]\nmin_events = 5\n")):
        (folder / f"{name}.toml").write_text(RUN.format(name=name, folder=folder) + thin)
        invoke("train", "-c", folder / f"{name}.toml")
    report = json.loads((folder / "runs/thinned/thin.json").read_text())
    told = {out["reason"]: (out["users"], out["events"]) for out in report["left_out"]}
    assert told["bots: rapid"] == (0, 0)
    assert told["bots: regular"] == (1, 298)
    copies = told["duplicates"][0]  # a circle of 12 items has but 12 histories
    assert copies == 41 - 12
    assert (report["users_kept"], report["events_kept"]) == (12, 12 * 7)
    assert not (folder / "runs/plain/thin.json").exists()

    plain, thinned = (Artifact.open(folder / "runs" / name / "checkpoint") for name in ("plain", "thinned"))
    assert Checkpoint.load(thinned.path).popularity.sum() == 12 * 7
    roles = [artifact.data(None).roles for artifact in (plain, thinned)]
    assert (roles[1] == CONTEXT).sum() == report["events"] - report["events_kept"]
    (result,) = json.loads(invoke("evaluate", plain.path, thinned.path, "--compare", "--json"))
    assert len({evaluation["n_targets"] for evaluation in result["evaluations"]}) == 1

    seen = json.loads(invoke("data", "inspect", "-c", folder / "thinned.toml", "--json"))
    assert seen["thin"] == report
    assert "bots: regular: 298 events of 1 users" in invoke("data", "inspect", "-c", folder / "thinned.toml")
    assert json.loads(invoke("data", "inspect", folder / "log", "--json"))["thin"] is None

    (folder / "thinned.toml").write_text(RUN.format(name="thinned", folder=folder))
    invoke("train", "-c", folder / "thinned.toml", "--force")
    assert not (folder / "runs/thinned/thin.json").exists()
