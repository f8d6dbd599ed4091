"""SASRec with and without adversarial training: what is left under attack and with noisy histories.

    python benchmarks/training/robustness.py                 MovieLens-100k: some minutes on 2 cores
    python benchmarks/training/robustness.py --data ml-1m    MovieLens-1M: about two hours
    python benchmarks/training/robustness.py --table         only the table in docs/training.md

Leave-last-out, whole catalogue ranked. Every model of one seed is measured on the same targets under the same
conditions, and compared with the one that was trained without an adversary, paired by target. Writes
benchmarks/results/training-robustness.json (with --data ml-1m: training-robustness-ml1m.json).
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import describe  # noqa: E402
from benchmarks.paste import paste, table  # noqa: E402
from millirec.data.dataset import TEST, Dataset  # noqa: E402
from millirec.data.sources import MovieLensConfig, read  # noqa: E402
from millirec.data.split import LeaveLastOut, split, targets  # noqa: E402
from millirec.models.checkpoint import Checkpoint  # noqa: E402
from millirec.models.sasrec import SASRecConfig  # noqa: E402
from millirec.train.adversarial import FGM, PGD, AdversarialConfig  # noqa: E402
from millirec.train.fit import fit  # noqa: E402
from millirec.train.journal import Silent  # noqa: E402
from millirec.train.machine import Machine  # noqa: E402
from millirec.train.robustness import Conditions, robustness  # noqa: E402
from millirec.train.trainer import TrainConfig  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
MODEL = SASRecConfig(feed_forward=1, max_length=50)
TRAIN = TrainConfig(
    batch_size=32, learning_rate=2e-3, warmup_steps=200, epochs=30, schedule="cosine", validate_every=2, patience=30
)
SHOWN = ("clean", "random 0.1", "fgm 0.05", "pgd 0.05", "pgd 0.1", "drop 0.2", "swap 0.2", "inject 0.2", "inject 0.4")
ADVERSARIES: dict[str, AdversarialConfig | None] = {
    "clean": None,
    "fgm 0.1": FGM(epsilon=0.1),
    "fgm 0.3": FGM(epsilon=0.3),
    "pgd 0.1": PGD(epsilon=0.1, steps=3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("ml-100k", "ml-1m"), default="ml-100k")
    parser.add_argument("--seeds", nargs="*", type=int, default=[42, 43, 44])
    parser.add_argument("--only", nargs="*", choices=list(ADVERSARIES)[1:], default=list(ADVERSARIES)[1:])
    parser.add_argument("--epochs", type=int, default=TRAIN.epochs)
    parser.add_argument("--threads", type=int, default=0, help="0 = all cores")
    parser.add_argument("--table", action="store_true", help="only the table in docs/training.md, of MovieLens-100k")
    options = parser.parse_args()
    if options.table:
        paste("training.md", "robustness", shown(json.loads((RESULTS / "training-robustness.json").read_text())))
        return
    folder = Path(os.environ.get("MILLIREC_DATA", ROOT / ".." / "shared" / "data")).resolve()
    dataset = split(read(MovieLensConfig(path=str(folder / options.data))), LeaveLastOut())
    train = msgspec.structs.replace(TRAIN, epochs=options.epochs)
    machines = [Machine(seed=seed, threads=options.threads) for seed in options.seeds]
    runs = [one_seed(dataset, train, ["clean", *options.only], machine) for machine in machines]
    result = {
        "data": options.data,
        "protocol": f"{dataset.protocol}, whole catalogue ranked, seen items left out",
        "model": msgspec.to_builtins(MODEL) | {"kind": "sasrec"},
        "train": msgspec.to_builtins(train),
        "adversaries": {name: msgspec.to_builtins(ADVERSARIES[name]) for name in ("clean", *options.only)},
        "runs": runs,
        "machine": describe(),
    }
    name = "training-robustness" + ("" if options.data == "ml-100k" else "-ml1m") + ".json"
    (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n")
    print(shown(result))


def one_seed(dataset: Dataset, train: TrainConfig, names: list[str], machine: Machine) -> dict[str, Any]:
    """Train with every adversary from one seed, and measure them side by side."""
    made: dict[str, Checkpoint] = {}
    for name in names:
        config = msgspec.structs.replace(train, adversarial=ADVERSARIES[name])
        made[name] = fit(dataset, MODEL, config, machine, Silent())
        print(f"seed {machine.seed}, {name}: {made[name].metrics}, {made[name].lineage[-1].seconds:.0f} s", flush=True)
    report = robustness(made, dataset, targets(dataset, TEST), Conditions(seed=machine.seed), repeats=False)
    seconds = {name: checkpoint.lineage[-1].seconds for name, checkpoint in made.items()}
    return {"seed": machine.seed, "training_seconds": seconds, "report": msgspec.to_builtins(report)}


def shown(result: dict[str, Any]) -> str:
    """A row a condition: NDCG@10 of each training, mean and standard deviation over the seeds, and in brackets the
    seeds in which its 95 % interval of the paired difference to the plain training lies above 0.
    """
    cells, wins = defaultdict(list), defaultdict(int)
    for run in result["runs"]:
        for outcome in run["report"]["outcomes"]:
            cells[_key(outcome), outcome["checkpoint"]].append(outcome["ndcg_10"]["value"])
        for gap in run["report"]["gaps"]:
            wins[_key(gap), gap["a"]] += gap["metric"] == "ndcg@10" and gap["low"] > 0
    names, rows = list(result["adversaries"]), []
    for condition in SHOWN:
        row = [condition]
        for name in names:
            values = np.array(cells[condition, name])
            text = f"{values.mean():.4f} ± {values.std(ddof=1) if len(values) > 1 else 0:.4f}"
            row.append(text if name == "clean" else f"{text} ({wins[condition, name]})")
        rows.append(row)
    return table(["histories and vectors", *(f"trained {name}" for name in names)], rows)


def _key(entry: dict[str, Any]) -> str:
    told = entry["condition"]
    return f"{told['kind']} {told['amount']:g}".removesuffix(" 0")


if __name__ == "__main__":
    main()
