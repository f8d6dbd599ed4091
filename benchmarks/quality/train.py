"""One run: a spec and a seed become a results file, by way of `millirec train` in a process of its own."""

import json
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.machine import describe
from benchmarks.quality.sets import ROOT, Set, read_model, read_set, source, split_config, split_name
from millirec.config import RunConfig, convert, dumps
from millirec.data.sources import SourceConfig
from millirec.data.split import SplitConfig

RUNS = ROOT / "runs" / "quality"
RESULTS = ROOT / "benchmarks" / "results" / "quality"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to run: model `model` on `set` under `protocol`, and on which device with how many threads (0 = all)."""

    set: str
    protocol: str
    model: str
    seed: int
    device: str = "cpu"
    threads: int = 0

    @property
    def label(self) -> str:
        """The name of the run and of its results file."""
        return f"{self.set}-{self.protocol}-{self.model}-{self.seed}"


def result_path(settings: Settings) -> Path:
    """Where the results of a run are kept."""
    return RESULTS / f"{settings.label}.json"


def run(settings: Settings, *, resume: bool) -> None:
    """Train, measure, and keep the figures. With `resume` a run whose results are there is left alone.

    A run that was cut short goes on where it stopped when its config is still the same.
    """
    spec, path = read_set(settings.set), result_path(settings)
    sections = read_model(settings.set, settings.model)
    config = {"model": sections["model"], "train": sections.get("train", {}) | {"repeats": spec.repeats}}
    if resume and path.exists() and current(json.loads(path.read_text()), spec, config):
        print(f"{settings.label}: done already", flush=True)
        return
    machine = {"seed": settings.seed, "device": settings.device, "threads": settings.threads}
    text = dumps(config | {"machine": machine})
    where = source(spec, settings.protocol), split_config(spec, settings.protocol)
    history, cost = run_command(settings.label, *where, text, resume=resume)
    metrics = json.loads((RUNS / settings.label / "metrics.json").read_text())
    result = msgspec.to_builtins(settings) | {"config": config, "data": spec.protocols[settings.protocol].data}
    result |= figures_of(spec, metrics, history) | cost
    result["machine"] = describe(settings.device)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def current(result: dict[str, Any], spec: Set, config: dict[str, Any] | None = None) -> bool:
    """Whether a result is of the split that the spec names now, and of this config when one is given."""
    if result["protocol"] not in spec.protocols:
        return False
    split = split_name(spec, result["protocol"])
    data = result.get("data", spec.protocols[result["protocol"]].data)
    same = result["split"] == split and data == spec.protocols[result["protocol"]].data
    return same and (config is None or result["config"] == config)


def figures_of(spec: Set, metrics: dict[str, Any], history: list[dict[str, Any]]) -> dict[str, Any]:
    """What a results file says of quality and of the course of the training."""
    test = metrics["test"]
    reached = [entry["seconds"] / 60 for entry in history if (entry.get("ndcg_10") or 0) >= (spec.watch or 9)]
    return {
        "split": test["protocol"],
        "rules": "whole catalogue ranked, ties against the model, seen items "
        + ("kept (repeats)" if spec.repeats else "left out"),
        "n_targets": test["n_targets"],
        "n_users": test["n_users"],
        "figures": test["figures"],
        "popularity": {name: test["popularity"][name] for name in spec.metrics},
        "leaks": test["leaks"],
        "validation": metrics["validation"],
        "watch": spec.watch,
        "minutes_to_watch": reached[0] if reached else None,
        "history": history,
        "training_seconds": metrics["seconds"],
    }


def run_command(
    label: str, data: SourceConfig, split: SplitConfig, text: str, *, resume: bool = False
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """`millirec train` with sections [model], [train], [machine]; the history of its epochs, and what it cost."""
    sections = tomllib.loads(text)
    places = {"name": label, "out": str(RUNS), "data": msgspec.to_builtins(data), "split": msgspec.to_builtins(split)}
    whole = dumps(convert(sections | places, RunConfig, label))
    cost = trained(RUNS, label, whole, resume=resume)
    progress = RUNS / label / "progress" / "progress.json"
    history = json.loads(progress.read_text())["history"] if progress.exists() else []
    return history, cost


def trained(runs: Path, label: str, text: str, *, resume: bool) -> dict[str, float]:
    """`millirec train` on this TOML, which is kept as `runs`/`label`.toml; what the command cost, seconds and MiB.

    With `resume` a run of the same TOML that was cut short goes on.
    """
    config = runs / f"{label}.toml"
    same = resume and config.exists() and config.read_text(encoding="utf-8") == text
    runs.mkdir(parents=True, exist_ok=True)
    config.write_text(text, encoding="utf-8")
    began = time.monotonic()
    how = "--resume" if same else "--force"
    process = subprocess.Popen([sys.executable, "-m", "millirec", "train", "-c", str(config), how])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # wait4 has taken it from Popen
    if process.returncode:
        raise SystemExit(f"{label}: training failed")
    cost = {"wall_seconds": time.monotonic() - began, "cpu_seconds": usage.ru_utime + usage.ru_stime}
    return cost | {"peak_memory_mib": usage.ru_maxrss / 1024}
