"""A million items: a float teacher of width 128, and students whose item table is product codes that are the index.

    python benchmarks/compression/million.py [--threads 1]     50 minutes of one core; compression-million.json

The simulator makes a log over a million items. SASRec of width 128 learns from it; recipes make students of it: with 16
codes of 4 bits an item, and with 128 codes for the twentieth of the items that has most events and a few for all
others. All rank the whole catalogue for the same held-out events (the last of each user, some users drawn at random):
`kept` is the student's recall@10 as a share of the teacher's, with a paired bootstrap over users. Top-100 is then timed
for the user vectors of held-out histories, one query after the other on one core, each index in turn; `exact` says
whether the answers are those of a full matrix product over the same vectors. `item_memory_mb`: all that the index holds
for items, its copy in the order of registers included; `file_mb`: the checkpoint's parameters, network included.
Checkpoints are kept in runs/million and taken up from there.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks.machine import describe  # noqa: E402
from benchmarks.training.large_catalogue import simulated  # noqa: E402
from millirec import index  # noqa: E402
from millirec.compress.product import JointProduct, ProductQuantize  # noqa: E402
from millirec.compress.recipe import Recipe, StepConfig, compress  # noqa: E402
from millirec.compress.tiers import Tier  # noqa: E402
from millirec.compress.workshop import Workshop  # noqa: E402
from millirec.data.dataset import TEST, Dataset  # noqa: E402
from millirec.index import ExactConfig, Index, ProductIndex, TieredIndex  # noqa: E402
from millirec.metrics.bootstrap import paired_ratio  # noqa: E402
from millirec.models.checkpoint import Checkpoint  # noqa: E402
from millirec.models.sasrec import SASRecConfig  # noqa: E402
from millirec.train.evaluate import questions, rank_targets, sample_targets  # noqa: E402
from millirec.train.fit import fit  # noqa: E402
from millirec.train.journal import Silent  # noqa: E402
from millirec.train.losses import SampledSoftmax  # noqa: E402
from millirec.train.machine import Machine  # noqa: E402
from millirec.train.trainer import TrainConfig  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "compression-million.json"
RUNS = ROOT / "runs" / "million"
MODEL = SASRecConfig(embedding_dim=128, blocks=1, heads=2, feed_forward=1, max_length=50)
CODES, BITS, K, QUERIES, TARGETS = 16, 4, 100, 200, 10_000
TIERS: dict[str, Any] = {"share": 0.05, "fine_codes": 128, "codes": 8, "code_bits": 4}


def training(epochs: int, learning_rate: float = 2e-3) -> TrainConfig:
    """A sampled softmax, as catalogues of this size ask for."""
    return TrainConfig(
        loss=SampledSoftmax(negatives=1024, sampling="in-batch"), epochs=epochs, validate_every=epochs,
        validation_targets=500, learning_rate=learning_rate, warmup_steps=50, clip_norm=5.0, repeats=True,
    )  # fmt: skip


STUDENTS: dict[str, StepConfig] = {
    "codes of the vectors": ProductQuantize(codes=CODES, bits=BITS),
    "codes of the vectors, trained on": JointProduct(
        codes=CODES, bits=BITS, codes_from="vectors", train=training(1, 1e-3)
    ),
    "codes from who took what, trained anew": JointProduct(
        codes=CODES, bits=BITS, codes_from="svd", fresh=True, train=training(3)
    ),
    "two tiers of codes": Tier(**TIERS),
}


def made(dataset: Dataset, machine: Machine, only: list[str]) -> dict[str, Checkpoint]:
    """The teacher and these students of it, from disk where they are there."""
    import msgspec

    def teacher() -> Checkpoint:
        train = msgspec.structs.replace(training(3), sparse_rows=True)
        return fit(dataset, MODEL, train, machine, Silent(), progress=RUNS / "teacher-progress", resume=True)

    found = {"teacher": _kept("teacher", teacher)}
    workshop = Workshop(lambda: dataset, machine, folder=RUNS / "steps", repeats=True)
    for name in only:
        step = STUDENTS[name]
        recipe = Recipe(steps=(step,), name=name)
        found[name] = _kept(folder_of(name), lambda r=recipe: compress(found["teacher"], r, workshop))
    return found


def folder_of(name: str) -> str:
    """Where a student is kept."""
    return name.replace(" ", "-").replace(",", "")


def _kept(name: str, make: Any) -> Checkpoint:
    folder = RUNS / name
    if not folder.exists():
        began = time.monotonic()
        make().save(folder)
        print(f"{name}: {time.monotonic() - began:,.0f} s", flush=True)
    return Checkpoint.load(folder)


def hits(checkpoint: Checkpoint, dataset: Dataset) -> NDArray[np.float64]:
    """1 for each held-out event that is among the ten best of the whole catalogue."""
    asked = sample_targets(dataset, TEST, TARGETS, repeats=True, seed=7)
    ranks = rank_targets(checkpoint.network(), dataset, asked, MODEL.max_length, keep_seen=True, lists=0)  # type: ignore[arg-type]
    return (ranks.ranks <= 10).astype(np.float64)


def queries(checkpoint: Checkpoint, dataset: Dataset) -> NDArray[np.float32]:
    """User vectors of held-out histories, (n, d)."""
    asked = sample_targets(dataset, TEST, QUERIES, repeats=True, seed=7)
    network = checkpoint.network()
    out = np.zeros((len(asked), MODEL.embedding_dim), np.float32)
    with torch.inference_mode():
        for which, inputs in questions(dataset, asked, MODEL.max_length, torch.device("cpu")):
            out[which] = network.user_vectors(inputs).numpy()  # type: ignore[operator]
    return out


def item_index(checkpoint: Checkpoint) -> tuple[Index, int]:
    """The index that is the item table, and the bytes that it holds for items."""
    arrays = {
        name.removeprefix("item."): value.float().numpy() if value.is_floating_point() else value.numpy()
        for name, value in checkpoint.parameters.items()
        if name.startswith("item.")
    }
    one = "codes" in arrays
    found: Index = ProductIndex(arrays["codes"], arrays["centroids"]) if one else TieredIndex.of_table(arrays)
    again = sum(array.nbytes for name, array in arrays.items() if name.endswith("codes"))  # as registers want them
    tiers = 0 if one else 8 * int(arrays["slots"][-1, 0])
    return found, sum(array.nbytes for array in found.arrays().values()) + again + tiers


def searched(found: Index, exact: Index, asked: NDArray[np.float32]) -> dict[str, Any]:
    """Milliseconds of single queries, the best of three goes each; and whether the answers are exact."""
    best = np.full(len(asked), np.inf)
    for _ in range(4):
        for i in range(len(asked)):
            began = time.perf_counter()
            found.search(asked[i : i + 1], K)
            best[i] = min(best[i], 1e3 * (time.perf_counter() - began))
    want, got = exact.search(asked, K).rows, found.search(asked, K).rows
    return {
        "median_ms": round(statistics.median(best), 3),
        "p99_ms": round(float(np.quantile(best, 0.99)), 3),
        "share_of_exact_answers": round(
            float(np.mean([np.isin(a, b).mean() for a, b in zip(want, got, strict=True)])), 5
        ),
    }


def main() -> None:
    """Make, rank, search, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    for name, default in (("items", 1_000_000), ("users", 60_000), ("events", 3_000_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", nargs="*", choices=list(STUDENTS), default=list(STUDENTS), help="keep other rows")
    options = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    dataset = simulated(options)
    checkpoints = made(dataset, Machine(threads=options.threads), options.only)
    first, rows = hits(checkpoints["teacher"], dataset), {}
    if RESULT.exists():
        rows = json.loads(RESULT.read_text(encoding="utf-8"))["rows"]
    for name, checkpoint in checkpoints.items():
        own = first if name == "teacher" else hits(checkpoint, dataset)
        kept = paired_ratio(own, first)
        rows[name] = {
            "recall@10": round(float(own.mean()), 4),
            "kept": [round(float(x), 4) for x in (kept.mean, kept.low, kept.high)],
        }
        print(name, json.dumps(rows[name]), flush=True)
        asked = queries(checkpoint, dataset)
        file = RUNS / folder_of(name) / "parameters.safetensors"
        rows[name]["file_mb"] = round(file.stat().st_size / 1e6, 1)
        if name == "teacher":
            vectors = checkpoint.network().item_vectors().detach().numpy()  # type: ignore[operator]
            rows[name]["item_memory_mb"] = round(vectors.nbytes / 1e6, 1)
            continue
        table, held = item_index(checkpoint)
        exact = index.build(table.vectors(np.arange(options.items + 1, dtype=np.int32)), ExactConfig())
        rows[name] |= searched(table, exact, asked) | {"item_memory_mb": round(held / 1e6, 2)}
        print(name, json.dumps(rows[name]), flush=True)
    tiers = {"share": TIERS["share"], "fine_codes": TIERS["fine_codes"], "coarse_codes": TIERS["codes"]}
    settings = {name: value for name, value in vars(options).items() if name != "only"}
    settings |= {"codes": CODES, "bits": BITS, "k": K} | tiers
    result = {"settings": settings, "machine": describe(), "rows": rows}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
