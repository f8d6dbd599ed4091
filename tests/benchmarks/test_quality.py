"""The specs of the quality benchmarks, a run from spec to results file, and the table."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.quality import __main__ as command
from benchmarks.quality import sets, table, train
from millirec.config import RunConfig, convert
from millirec.data.errors import ConfigError

SPEC = """
title = "Circles"
about = "People who walk a circle."
watch = 0.3
[protocols.leave-last-out]
data = { kind = "table", path = "events.csv", columns = { user = "who", item = "what", time = "when" } }
split = { kind = "leave-last-out" }
[protocols.global-time]
data = { kind = "table", path = "events.csv", columns = { user = "who", item = "what", time = "when" } }
split = { kind = "global-time", validation = 0.15, test = 0.15 }
[[published]]
who = "Somebody"
source = "a paper"
figures = { "ndcg@10" = 0.5 }
"""
MODEL = """
[model]
kind = "gru4rec"
embedding_dim = 8
hidden_dim = 8
max_length = 8
[train]
epochs = 3
batch_size = 8
learning_rate = 0.02
"""


@pytest.mark.parametrize("name", sets.names())
def test_every_spec_is_a_run(name: str) -> None:
    spec = sets.read_set(name)
    assert sets.models(name)
    for protocol in spec.protocols:
        places = {"data": sets.source(spec, protocol), "split": sets.split_config(spec, protocol)}
        for model in sets.models(name):
            sections = sets.read_model(name, model)
            assert set(sections) <= {"model", "train"}
            config = {"model": sections["model"], "train": sections.get("train", {}) | {"repeats": spec.repeats}}
            run: RunConfig = convert(config | {"data": {"kind": "log", "path": "x"}}, RunConfig, f"{name}/{model}")
            assert run.train.repeats == spec.repeats
        assert places


def test_published_figures_belong_to_a_protocol_and_a_metric_of_the_set() -> None:
    for name in sets.names():
        spec = sets.read_set(name)
        for entry in spec.published:
            assert entry.protocol in spec.protocols, (name, entry.who)
            assert set(entry.figures) <= set(spec.metrics), (name, entry.who)


def test_a_spec_with_a_typo_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "SPECS", tmp_path)
    monkeypatch.setattr(sets, "ROOT", tmp_path)
    (tmp_path / "circle").mkdir()
    (tmp_path / "circle" / "set.toml").write_text(SPEC.replace("watch", "wach"))
    with pytest.raises(ConfigError, match="wach"):
        sets.read_set("circle")
    with pytest.raises(SystemExit, match="absent"):
        sets.read_set("absent")


@pytest.fixture
def circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set of its own, with data, whose runs, results and page stay below a folder."""
    folder = tmp_path / "specs" / "circle"
    folder.mkdir(parents=True)
    (folder / "set.toml").write_text(SPEC)
    (folder / "small.toml").write_text(MODEL)
    rows = [f"u{u},i{(u + step) % 12},{1000 * (9 * u + step)}" for u in range(40) for step in range(9)]
    (tmp_path / "events.csv").write_text("\n".join(["who,what,when", *rows]) + "\n")
    monkeypatch.setenv("MILLIREC_DATA", str(tmp_path))
    monkeypatch.setattr(sets, "SPECS", tmp_path / "specs")
    for module in (train, table):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(table, "PEERS", tmp_path / "peers")
    monkeypatch.setattr(train, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(table, "PAGE", tmp_path / "quality.md")
    return tmp_path


def test_a_run_leaves_a_results_file_and_is_not_made_twice(circle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = train.Settings(set="circle", protocol="leave-last-out", model="small", seed=3, threads=1)
    train.run(settings, resume=False)
    (path,) = (circle / "results").iterdir()
    result = json.loads(path.read_text())
    assert path.name == "circle-leave-last-out-small-3.json"
    assert result["config"]["model"]["kind"] == "gru4rec"
    assert len(result["history"]) == 3
    assert result["peak_memory_mib"] > 10
    assert str(circle) not in path.read_text(), "a results file names no path of the machine"
    assert result["machine"]["device"] == "cpu"
    before = path.stat().st_mtime_ns
    train.run(settings, resume=True)
    assert path.stat().st_mtime_ns == before
    assert "done already" in capfd.readouterr().out
    spec = circle / "specs" / "circle" / "small.toml"
    spec.write_text(spec.read_text().replace("epochs = 3", "epochs = 2"))
    train.run(settings, resume=True)  # another config: anew
    assert len(json.loads(path.read_text())["history"]) == 2
    before, spec = path.stat().st_mtime_ns, circle / "specs" / "circle" / "set.toml"
    spec.write_text(spec.read_text().replace('"leave-last-out" }', '"leave-last-out", min_events = 4 }'))
    train.run(settings, resume=True)  # another split: anew
    assert path.stat().st_mtime_ns > before


def test_how_long_it_took_to_the_watched_figure() -> None:
    spec = convert({"title": "t", "about": "a", "protocols": {}, "watch": 0.3}, sets.Set, "spec")
    figures = {"ndcg@10": {"value": 0.1}, "hr@10": {"value": 0.2}}
    test = {"protocol": "p", "n_targets": 1, "n_users": 1, "figures": figures, "popularity": figures, "leaks": []}
    metrics = {"test": test, "validation": {}, "seconds": 9.0}
    course = [
        {"seconds": 60.0, "ndcg_10": 0.2},
        {"seconds": 90.0, "ndcg_10": None},
        {"seconds": 120.0, "ndcg_10": 0.31},
    ]
    assert train.figures_of(spec, metrics, course)["minutes_to_watch"] == 2.0
    assert train.figures_of(spec, metrics, course[:2])["minutes_to_watch"] is None


def result(model: str, protocol: str, value: float, seed: int = 1) -> dict[str, Any]:
    figure = {"value": value, "low": value - 0.01, "high": value + 0.01}
    figures = {"ndcg@10": figure, "hr@10": figure, "coverage@10": {"value": 0.5}}
    machine = {"processor": "P", "cores": 2, "system": "S"}
    split = {"leave-last-out": "leave-last-out (min_events=3, stable sort by time, file order on ties)"}
    name = split.get(protocol, "global-time (validation=0.15, test=0.15)")
    head = {"split": name, "set": "circle", "model": model, "protocol": protocol, "seed": seed, "machine": machine}
    return head | {"figures": figures, "training_seconds": 60.0, "minutes_to_watch": 0.5, "peak_memory_mib": 100.0}


def test_the_table_summarises_seeds_and_shows_protocols_side_by_side(circle: Path) -> None:
    (circle / "results").mkdir()
    shown = [result("a", "leave-last-out", 0.1), result("b", "leave-last-out", 0.2), result("b", "global-time", 0.05)]
    shown.append(result("b", "leave-last-out", 0.3, seed=2))
    for i, one in enumerate(shown):
        (circle / "results" / f"{i}.json").write_text(json.dumps(one))
    (circle / "peers").mkdir()
    peer = result("sasrec", "leave-last-out", 0.15) | {"title": "A peer"}
    (circle / "peers" / "peer.json").write_text(json.dumps(peer))
    (circle / "peers" / "epochs.json").write_text(json.dumps({"set": "circle", "epoch_seconds": {}}))
    table.write()
    lines = (circle / "quality.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith(("| a", "| b", "| *"))]
    assert rows[0].startswith("| b | 0.2500 ± 0.0707 (2) |"), "the best first, mean and sd over its seeds"
    assert "| 0.0500 [0.0400, 0.0600] |" in rows[0], "the other protocol beside"
    assert rows[1].startswith("| a | 0.1000 [0.0900, 0.1100] |")
    assert rows[2].startswith("| *A peer, trained here* | 0.1500 [0.1400, 0.1600] |")
    assert rows[2].endswith("| 1.0 |  | 100 |")
    assert rows[3].startswith("| *Somebody* (a paper) | *0.5000* |")
    assert len({row.count("|") for row in rows}) == 1
    stale = shown[0] | {"split": "leave-last-out (min_events=5)"}
    (circle / "results" / "0.json").write_text(json.dumps(stale))
    table.write()
    assert "| a |" not in (circle / "quality.md").read_text(), "of another split than the page says"


def test_the_plan_holds_every_protocol_and_seed(circle: Path) -> None:
    options = {"sets": ["circle"], "only": None, "protocol": None, "seeds": [1, 2], "device": "cpu", "threads": 1}
    labels = [settings.label for settings in command.planned(argparse.Namespace(**options))]
    assert labels == [
        f"circle-{protocol}-small-{seed}" for protocol in ("leave-last-out", "global-time") for seed in (1, 2)
    ]
    options["protocol"] = "global-time"
    assert len(command.planned(argparse.Namespace(**options))) == 2
    options["only"] = ["absent"]
    with pytest.raises(SystemExit, match="no spec"):
        command.planned(argparse.Namespace(**options))
