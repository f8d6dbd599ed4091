"""How long an epoch of SASRec takes on MovieLens-1M, and where the time goes.

    python benchmarks/training/epoch.py                 about five minutes on 2 cores
    python benchmarks/training/epoch.py --only sampled --threads 2

Width 64, 2 blocks, length 200, batches of 128 sorted by length, as `millirec train` computes them, under tcmalloc where
the system has it. The first epoch warms up and is profiled for some batches, the second is timed, batch by batch,
without validation. Wall-clock time means little on a machine that does other work: CPU seconds are given too.
A case replaces its older self in benchmarks/results/training-epoch.json.
"""

import argparse
import ctypes.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from torch.profiler import ProfilerActivity, profile  # noqa: E402

from benchmarks.machine import describe  # noqa: E402
from millirec.data.dataset import Dataset  # noqa: E402
from millirec.data.sources import MovieLensConfig, read  # noqa: E402
from millirec.data.split import LeaveLastOut, split  # noqa: E402
from millirec.models.config import build  # noqa: E402
from millirec.models.sasrec import SASRecConfig  # noqa: E402
from millirec.train.journal import Silent  # noqa: E402
from millirec.train.losses import BCE, FullSoftmax, InBatchSoftmax, LossConfig, SampledSoftmax  # noqa: E402
from millirec.train.machine import Machine  # noqa: E402
from millirec.train.trainer import TrainConfig, Trainer  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "training-epoch.json"
CASES: dict[str, tuple[int, LossConfig, Literal["fp32", "bf16"]]] = {
    "sampled": (1, SampledSoftmax(negatives=512), "fp32"),
    "sampled-bf16": (1, SampledSoftmax(negatives=512), "bf16"),
    "sampled-feed-4": (4, SampledSoftmax(negatives=512), "fp32"),
    "bce": (1, BCE(negatives=512), "fp32"),
    "in-batch": (1, InBatchSoftmax(negatives=512), "fp32"),
    "full": (1, FullSoftmax(), "fp32"),
    "full-bf16": (1, FullSoftmax(), "bf16"),
}
PROFILED = range(4, 12)  # batches of the first epoch
GROUPS = {
    "loss": ("log_softmax", "logsumexp", "nll"),
    "attention": ("scaled_dot_product", "bmm", "_softmax"),
    "matrix products": ("mm", "linear"),
    "layer norm": ("layer_norm",),
    "gelu": ("gelu",),
    "embedding": ("embedding", "index", "scatter"),
    "dropout's numbers": ("random_", "::ge"),
    "optimizer": ("adam",),
    "element by element": ("::mul", "::add", "::sum", "copy_", "fill_", "::cat"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    use_tcmalloc()
    data = Path(os.environ.get("MILLIREC_DATA", ROOT / ".." / "shared" / "data")).resolve() / "ml-1m"
    dataset = split(read(MovieLensConfig(path=str(data))), LeaveLastOut())
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in options.only:
        label = f"{name}, threads={options.threads}"
        result[label] = measure(name, dataset, options.threads) | {"machine": describe()}
        print(label, json.dumps(result[label]), flush=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


def use_tcmalloc() -> None:
    """Start again with tcmalloc, as `millirec train` does."""
    library = ctypes.util.find_library("tcmalloc_minimal") or ctypes.util.find_library("tcmalloc")
    if library and "tcmalloc" not in os.environ.get("LD_PRELOAD", ""):
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"LD_PRELOAD": library})


def measure(case: str, dataset: Dataset, threads: int) -> dict[str, Any]:
    """Seconds of one epoch, and the shares of a profile."""
    feed_forward, loss, precision = CASES[case]
    machine = Machine(threads=threads)
    machine.prepare()
    model = SASRecConfig(feed_forward=feed_forward)
    config = TrainConfig(loss=loss, epochs=2, validate_every=2, validation_targets=50, precision=precision)
    watch = Watch()
    Trainer(build(model, len(dataset.items)), dataset, model.max_length, config, machine).run(None, watch)
    busy = sum(watch.cpu) / sum(watch.wall) / threads
    return {
        "seconds": round(sum(watch.wall), 2),
        "cpu_seconds": round(sum(watch.cpu), 2),
        "share_of_the_processors_had": round(busy, 2),
        "batches": len(watch.wall),
        "shares": watch.shares(),
    }


class Watch(Silent):
    """Profiles some batches of the first epoch and times those of the second."""

    def __init__(self) -> None:
        self.number, self.seen = 0, 0
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.profile = profile(activities=[ProfilerActivity.CPU])

    def epoch(self, number: int, n_batches: int, done: int) -> None:
        """The clocks start with the epoch."""
        self.number, self.seen = number, done
        assert n_batches > PROFILED.stop
        self._since = time.perf_counter(), time.process_time()

    def batch(self, loss: float) -> None:
        """A batch of the first epoch is counted, one of the second is timed."""
        del loss
        self.seen += 1
        now = time.perf_counter(), time.process_time()
        if self.number:
            self.wall.append(now[0] - self._since[0])
            self.cpu.append(now[1] - self._since[1])
        elif self.seen == PROFILED.start:
            self.profile.start()
        elif self.seen == PROFILED.stop:
            self.profile.stop()
        self._since = time.perf_counter(), time.process_time()

    def shares(self) -> dict[str, float]:
        """The share of each group of operators in the time of the profiled batches; the rest is Python and all else."""
        spent = dict.fromkeys([*GROUPS, "other"], 0.0)
        for entry in self.profile.key_averages():
            if entry.self_cpu_time_total:
                spent[_group(entry.key)] += entry.self_cpu_time_total
        total = sum(spent.values())
        return {name: round(time / total, 3) for name, time in sorted(spent.items(), key=lambda pair: -pair[1])}


def _group(operator: str) -> str:
    return next((name for name, parts in GROUPS.items() if any(part in operator for part in parts)), "other")


if __name__ == "__main__":
    main()
