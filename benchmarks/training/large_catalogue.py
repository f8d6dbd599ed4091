"""A million items on a small machine: memory, time per step, and whether it learns.

    python benchmarks/training/large_catalogue.py            some minutes on 2 cores
    python benchmarks/training/large_catalogue.py --users 20000 --events 1000000 --epochs 2

The simulator makes a log over `--items` items. SASRec learns from it with a sampled softmax, once with
`sparse_rows` (only the item vectors of a batch are moved) to the end, and once without it for a few steps, to show
what a step costs then. Each in a process of its own, whose peak memory the system tells. Writes
benchmarks/results/training-large-catalogue.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks.machine import describe  # noqa: E402
from millirec.data.catalog import Catalog, Vocabulary  # noqa: E402
from millirec.data.dataset import VALIDATION, Dataset, Interactions  # noqa: E402
from millirec.data.split import LeaveLastOut, split  # noqa: E402
from millirec.data.world import Events, SimulatedConfig, World, together  # noqa: E402
from millirec.train.journal import Silent  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "training-large-catalogue.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("items", 1_000_000), ("users", 60_000), ("events", 3_000_000), ("epochs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--validation", type=int, default=500, help="held-out events that are ranked")
    parser.add_argument("--steps", type=int, default=15, help="steps without sparse rows")
    parser.add_argument("--threads", type=int, default=0, help="0 = all cores")
    parser.add_argument("--child", choices=("rows", "dense"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options)))
        return
    result = {"settings": {k: v for k, v in vars(options).items() if k != "child"}, "machine": describe()}
    result |= {kind: run(kind) for kind in ("rows", "dense")}
    result["limit_gib"] = 4.0
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def run(kind: str) -> dict[str, Any]:
    """One training in a process of its own, with its peak memory."""
    process = subprocess.Popen(
        [sys.executable, __file__, *sys.argv[1:], "--child", kind], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{kind}: failed")
    found: dict[str, Any] = json.loads(text.splitlines()[-1])
    return found | {"peak_memory_gib": round(usage.ru_maxrss / 2**20, 3)}


def child(options: argparse.Namespace) -> dict[str, Any]:
    """Make the log, train, and rank the whole catalogue for some held-out events."""
    from millirec.models.config import build
    from millirec.models.sasrec import SASRecConfig
    from millirec.train.losses import SampledSoftmax
    from millirec.train.machine import Machine
    from millirec.train.trainer import TrainConfig, Trainer

    dataset = simulated(options)
    model = SASRecConfig(embedding_dim=64, blocks=1, heads=1, feed_forward=1, max_length=50)
    config = TrainConfig(
        loss=SampledSoftmax(negatives=1024, sampling="in-batch"),
        epochs=options.epochs,
        validate_every=options.epochs,
        validation_targets=options.validation,
        learning_rate=2e-3,
        warmup_steps=50,
        clip_norm=5.0,
        sparse_rows=options.child == "rows",
        repeats=True,
    )
    machine = Machine(threads=options.threads, save_every_seconds=1e9)
    machine.prepare()
    clock = Clock(options.steps if options.child == "dense" else None)
    trainer = Trainer(build(model, len(dataset.items)), dataset, model.max_length, config, machine)
    with tempfile.TemporaryDirectory() as folder:
        try:
            trained = trainer.run(Path(folder) / "progress", clock)
        except StopIteration:
            return clock.figures()
    figures: dict[str, Any] = {
        "epoch_losses": [round(epoch.loss, 4) for epoch in trained.history],
        "ndcg@10": trained.best_ndcg_10,
    }
    figures |= {"popularity_ndcg@10": popularity(dataset, options.validation), "n_validation": options.validation}
    return clock.figures() | figures | {"events": len(dataset.interactions), "items": len(dataset.items)}


def simulated(options: argparse.Namespace) -> Dataset:
    """The simulator's log over its whole catalogue: items that nobody took are there too."""
    world = World(
        SimulatedConfig(users=options.users, items=options.items, events=options.events, categories=200, zipf=1.0)
    )
    events = together([part for part in world.run() if isinstance(part, Events)])
    log = Interactions((events.users + 1).astype(np.int32), (events.items + 1).astype(np.int32), events.times)
    items = Catalog(Vocabulary([f"i{row}" for row in range(options.items)]))
    users = Catalog(Vocabulary([f"u{row}" for row in range(options.users)]))
    return split(Dataset.of(log, items, users, "simulated"), LeaveLastOut())


def popularity(dataset: Dataset, limit: int) -> float:
    """NDCG@10 of the most popular items on the same held-out events."""
    import torch

    from millirec.models.config import PopularityConfig, build
    from millirec.train.evaluate import ndcg_at_10, rank_targets, sample_targets

    model = build(PopularityConfig(), len(dataset.items))
    log = dataset.interactions.take(dataset.roles == 0)
    columns = [torch.from_numpy(np.ascontiguousarray(c)) for c in (log.users, log.items, log.times)]
    model.fit(*columns)  # type: ignore[operator]
    asked = sample_targets(dataset, VALIDATION, limit, repeats=True, seed=42)
    return ndcg_at_10(rank_targets(model, dataset, asked, 1, keep_seen=True).ranks)  # type: ignore[arg-type]


class Clock(Silent):
    """A journal that times the steps, and stops after `limit` of them."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self._since = time.perf_counter()

    def batch(self, loss: float) -> None:
        now = time.perf_counter()
        # The first step has the building of the network before it, the first of an epoch its plan: the median forgives.
        self.seconds.append(now - self._since)
        self.losses.append(loss)
        self._since = now
        if len(self.seconds) == self.limit:
            raise StopIteration

    def figures(self) -> dict[str, Any]:
        n = min(50, len(self.losses) // 2)
        return {
            "steps": len(self.seconds),
            "seconds_per_step_median": round(float(np.median(self.seconds)), 4),
            "training_seconds": round(sum(self.seconds), 1),
            "first_losses": round(float(np.mean(self.losses[:n])), 4),
            "last_losses": round(float(np.mean(self.losses[-n:])), 4),
        }


if __name__ == "__main__":
    main()
