"""Ensembles of models that `python -m benchmarks.quality` has trained, as rows of docs/quality.md.

    python -m benchmarks.quality.ensemble ml1m leave-last-out hstu-large linear-recurrent [--seeds 42]

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
    options = parsed(__doc__)
    for seed in options.seeds:
        labels = labels_of(options, seed)
        found = evaluated([str(RUNS / label / "checkpoint") for label in labels])
        told = {"model": "ensemble of " + ", ".join(options.members)}
        told |= {"config": {"members": labels, "mixture": found["artifacts"][-1]}}
        write(labels, f"ensemble-{'-'.join(options.members)}", told | {"figures": found["evaluations"][-1]["figures"]})
    table.write()


def parsed(about: str | None) -> argparse.Namespace:
    """The options of a command that makes one of several runs: set, protocol, members, seeds."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", help="the data set")
    parser.add_argument("protocol", help="how it is split")
    parser.add_argument("members", nargs="+", help="names of specs")
    parser.add_argument("--seeds", nargs="*", type=int, default=[42])
    return parser.parse_args()


def labels_of(options: argparse.Namespace, seed: int) -> list[str]:
    """The runs of the members."""
    return [f"{options.set}-{options.protocol}-{member}-{seed}" for member in options.members]


def write(labels: list[str], slug: str, told: dict[str, Any]) -> None:
    """A results file of `told` beside what all the members' runs have in common, and what they cost together."""
    results = [json.loads((RESULTS / f"{label}.json").read_text()) for label in labels]
    first = results[0]
    result: dict[str, Any] = {key: first[key] for key in ("set", "protocol", "seed")}
    result |= {"device": "cpu"} | told
    result |= {key: first[key] for key in _SAME if key in first}
    result |= {key: sum(one[key] for one in results) for key in _SUMS} | {"machine": describe("cpu")}
    path = RESULTS / f"{first['set']}-{first['protocol']}-{slug}-{first['seed']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


def evaluated(checkpoints: list[str]) -> Any:
    """What `millirec evaluate` says of the members and of their mixture."""
    return asked("evaluate", *checkpoints, "--compare", "--ensemble", "fitted")[0]


def asked(*command: str) -> Any:
    """What a command of `millirec` prints as JSON."""
    whole = [sys.executable, "-m", "millirec", *command, "--json"]
    return json.loads(subprocess.run(whole, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
