"""Ensembles of models that `python -m benchmarks.quality` has trained, as rows of docs/quality.md.

    python -m benchmarks.quality.ensemble ml1m leave-last-out hstu-large linear-recurrent [--seed 42]

The members' weights are fitted on the validation part; figures are of the test part, by `millirec evaluate --ensemble
fitted`. Minutes and memory are the members' together: all of them have to be trained, and kept.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

from benchmarks.machine import describe
from benchmarks.quality import table
from benchmarks.quality.train import RESULTS, RUNS

_SUMS = ("training_seconds", "cpu_seconds", "wall_seconds", "peak_memory_mib")
_SAME = ("split", "rules", "n_targets", "n_users", "popularity", "leaks", "data")


def main() -> None:
    """Mix, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", help="the data set")
    parser.add_argument("protocol", help="how it is split")
    parser.add_argument("members", nargs="+", help="names of specs")
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    labels = [f"{options.set}-{options.protocol}-{member}-{options.seed}" for member in options.members]
    results = [json.loads((RESULTS / f"{label}.json").read_text()) for label in labels]
    found = evaluated([str(RUNS / label / "checkpoint") for label in labels])
    name = "ensemble of " + ", ".join(options.members)
    result: dict[str, Any] = {key: results[0][key] for key in ("set", "protocol", "seed")}
    result |= {"model": name, "device": "cpu", "config": {"members": labels, "mixture": found["artifacts"][-1]}}
    result |= {key: results[0][key] for key in _SAME if key in results[0]} | {
        "figures": found["evaluations"][-1]["figures"]
    }
    result |= {key: sum(one[key] for one in results) for key in _SUMS} | {"machine": describe("cpu")}
    path = RESULTS / f"{options.set}-{options.protocol}-ensemble-{'-'.join(options.members)}-{options.seed}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    table.write()


def evaluated(checkpoints: list[str]) -> Any:
    """What `millirec evaluate` says of the members and of their mixture."""
    command = [
        sys.executable,
        "-m",
        "millirec",
        "evaluate",
        *checkpoints,
        "--compare",
        "--ensemble",
        "fitted",
        "--json",
    ]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)[0]


if __name__ == "__main__":
    main()
