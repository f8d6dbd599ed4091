"""One run: a ranker, features, a protocol and a seed become a results file, by way of `millirec train`."""

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.machine import describe
from benchmarks.quality.train import trained
from millirec.config import RankerRun, convert, dumps

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
RUNS = ROOT / "runs" / "ranking"
RESULTS = ROOT / "benchmarks" / "results" / "ranking"
PROTOCOLS: dict[str, dict[str, Any]] = {
    "random-rows": {"kind": "random-rows", "validation": 0.1, "test": 0.1, "seed": 0},
    "global-time": {"kind": "global-time", "validation": 0.1, "test": 0.1},
}
LABEL = {"positive_above": 3, "negative_below": 3}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, with how many threads (0 = all). `split` draws the rows of a random split."""

    fields: str
    protocol: str
    ranker: str
    seed: int
    threads: int = 1
    split: int = 0

    @property
    def label(self) -> str:
        """The name of the run and of its results file."""
        drawn = f"-split{self.split}" if self.split else ""
        return f"{self.fields}-{self.protocol}-{self.ranker}-{self.seed}{drawn}"


def names(folder: str) -> list[str]:
    """The specs or the sets of features that there are."""
    return sorted(path.stem for path in (HERE / folder).glob("*.toml"))


def run(settings: Settings, *, resume: bool) -> None:
    """Train, measure, and keep the figures. With `resume` a run of the same config whose results are there is left
    alone, and one that was cut short goes on."""
    path, sections = RESULTS / f"{settings.label}.json", sections_of(settings)
    if resume and path.exists() and json.loads(path.read_text())["config"] == sections:
        print(f"{settings.label}: done already", flush=True)
        return
    places = {"name": settings.label, "out": str(RUNS), "data": data_of(settings.protocol)}
    machine = {"seed": settings.seed, "threads": settings.threads}
    text = dumps(convert(sections | places | {"machine": machine}, RankerRun, settings.label))
    metrics, cost = train(settings.label, text, resume=resume)
    progress = RUNS / settings.label / "progress" / "progress.json"  # trees have none
    history = json.loads(progress.read_text())["history"] if progress.exists() else []
    result = msgspec.to_builtins(settings) | {"config": sections, **metrics, "history": history, **cost}
    result["machine"] = describe()
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


def sections_of(settings: Settings) -> dict[str, Any]:
    """What decides the figures, apart from the seed: label, split, features, ranker, training."""
    spec = tomllib.loads((HERE / "specs" / f"{settings.ranker}.toml").read_text())
    fields = fields_of(settings.fields)
    split = PROTOCOLS[settings.protocol]
    if "seed" in split:
        split = split | {"seed": settings.split}
    training = spec.get("train", {}) | spec.get("with", {}).get(settings.fields, {})
    return {"label": LABEL, "split": split, "features": fields, "ranker": spec["ranker"], "train": training}


def fields_of(name: str) -> list[dict[str, Any]]:
    """A set of features."""
    fields: list[dict[str, Any]] = tomllib.loads((HERE / "fields" / f"{name}.toml").read_text())["features"]
    return fields


def train(label: str, text: str, *, resume: bool) -> tuple[dict[str, Any], dict[str, float]]:
    """`millirec train` on a config; its metrics, and what it cost."""
    cost = trained(RUNS, label, text, resume=resume)
    metrics = json.loads((RUNS / label / "metrics.json").read_text())
    kept = {"test": metrics["test"], "validation": metrics["validation"]}
    return kept, cost


def data_of(protocol: str) -> dict[str, Any]:
    """MovieLens-1M; a split by time leaves out the users whose times are not known."""
    folder = shared("ml-1m")
    data = {"kind": "movielens", "path": str(folder)}
    return data | {"inexact": str(folder / "inexact_rows.csv.gz")} if protocol == "global-time" else data


def shared(name: str) -> Path:
    """A folder of the shared data, wherever that is."""
    return Path(os.environ.get("MILLIREC_DATA", ROOT / ".." / "shared" / "data")).resolve() / name
