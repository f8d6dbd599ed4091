"""What a ranker loses without each group of features, permuted and retrained: MovieLens-100k under global time.

    python -m benchmarks.ranking.leave_out            five minutes of a core
    python -m benchmarks.ranking.leave_out --table    only print the table again

`millirec features --retrain` on an `fm` (leave_out.toml), on the rows of the validation part: three rankers with
all features, three without each group. Leaves benchmarks/results/ranking-leave-out.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.ranking.runs import ROOT, RUNS, fields_of, shared, train
from millirec.config import RankerRun, convert, dumps

RESULT = ROOT / "benchmarks" / "results" / "ranking-leave-out.json"
SPEC = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
LABEL, SEEDS = "leave-out", 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the table of the result that is there")
    if not parser.parse_args().table:
        run()
    print(table(json.loads(RESULT.read_text())))


def sections() -> dict[str, Any]:
    """The sections of the run that the ranker comes from."""
    return {name: SPEC[name] for name in ("label", "split", "ranker", "train")} | {"features": fields_of("history")}


def run() -> None:
    """Train, ask for the report, and keep it."""
    data = {"kind": "movielens", "path": str(shared("ml-100k"))}
    places = {"name": LABEL, "out": str(RUNS), "data": data, "machine": {"seed": 42, "threads": 1}}
    metrics, _ = train(LABEL, dumps(convert(sections() | places, RankerRun, LABEL)), resume=False)
    groups = [f"--group={name}={','.join(features)}" for name, features in SPEC["groups"].items()]
    command = [sys.executable, "-m", "millirec", "features", str(RUNS / LABEL / "checkpoint"), "--retrain", "--json"]
    command += ["-c", str(RUNS / f"{LABEL}.toml"), "--seeds", str(SEEDS), *groups]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    report = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    result = {"config": sections(), "groups": SPEC["groups"], "test": metrics["test"], "report": report}
    result |= {"cpu_seconds": usage.ru_utime + usage.ru_stime, "machine": describe()}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def table(result: dict[str, Any]) -> str:
    """A row a group, the one first whose loss costs most; beside it the sum of what permuting its features costs."""
    permuted = {worth["name"]: worth["auc"] for worth in result["report"]["features"]}
    head = ["left out", "AUC lost", "by seed", "log loss lost", "p", "AUC lost when permuted, one by one", ""]
    lines = [_line(head), "|" + "---|" * len(head)]
    for group in result["report"]["retrained"]["groups"]:
        cells = [group["name"], _cell(group["auc"], 4), ", ".join(f"{auc:+.4f}" for auc in group["aucs"])]
        cells += [_cell(group["log_loss"], 4), f"{group['p_value']:.3f}"]
        cells += [f"{sum(permuted[name] for name in group['features']):+.4f}", "can go" if group["useless"] else ""]
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _cell(figure: dict[str, float], digits: int) -> str:
    return f"{figure['value']:+.{digits}f} [{figure['low']:+.{digits}f}, {figure['high']:+.{digits}f}]"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
