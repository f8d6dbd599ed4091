"""Warm start against training anew, on a log cut by time.

    python benchmarks/training/warm_start.py                   MovieLens-1M: about half an hour on 2 cores
    python benchmarks/training/warm_start.py --data ml-100k    some minutes

Of all events in time order, the first 80 % are what a first model knows. Then the next 10 % come: the first model is
fine-tuned with them, and another one is trained anew on all 90 %. Both are measured on the last 10 %, beside the first
model as it was: whole catalogue ranked, seen items left out, each question at the time of its event. The last 2 % of
each training part validate. Items that are new after the first cut are new to the first vocabulary. Users whose times
are unknown are left out where the data's folder names their lines (inexact_rows.csv.gz).

Writes benchmarks/results/training-warm-start.json (ml-100k: training-warm-start-ml100k.json).
"""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import describe  # noqa: E402
from millirec.data.catalog import Catalog, Vocabulary  # noqa: E402
from millirec.data.dataset import TEST, TRAIN, VALIDATION, Dataset  # noqa: E402
from millirec.data.extend import extended  # noqa: E402
from millirec.data.sources import MovieLensConfig, read  # noqa: E402
from millirec.data.split import targets  # noqa: E402
from millirec.metrics.bootstrap import paired_difference  # noqa: E402
from millirec.metrics.summary import per_target  # noqa: E402
from millirec.models.checkpoint import Checkpoint  # noqa: E402
from millirec.models.sasrec import SASRecConfig  # noqa: E402
from millirec.train.evaluate import Ranks, rank_checkpoint, summarised  # noqa: E402
from millirec.train.fine_tune import Earlier, WarmStart, fine_tune  # noqa: E402
from millirec.train.fit import fit  # noqa: E402
from millirec.train.journal import Silent  # noqa: E402
from millirec.train.machine import Machine  # noqa: E402
from millirec.train.trainer import TrainConfig  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
MODEL = SASRecConfig(feed_forward=1)
ANEW = TrainConfig(
    batch_size=32, learning_rate=2e-3, warmup_steps=200, epochs=30, schedule="cosine", validate_every=2, patience=30
)
TUNE = TrainConfig(batch_size=32, learning_rate=5e-4, warmup_steps=20, epochs=5, schedule="cosine")
STARTS = {
    "neighbours": WarmStart(checkpoint="the first 80 %"),
    "mean": WarmStart(checkpoint="the first 80 %", new_rows="mean"),
    "frozen for 1 epoch": WarmStart(checkpoint="the first 80 %", frozen_epochs=1),
    "all events again": WarmStart(checkpoint="the first 80 %", learn_from="all"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("ml-1m", "ml-100k"), default="ml-1m")
    parser.add_argument("--epochs", type=int, default=ANEW.epochs, help="of a training anew")
    parser.add_argument("--tune-epochs", type=int, default=TUNE.epochs)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=0, help="0 = all cores")
    options = parser.parse_args()
    folder = Path(os.environ.get("MILLIREC_DATA", ROOT / ".." / "shared" / "data")).resolve() / options.data
    named = folder / "inexact_rows.csv.gz"
    log = read(MovieLensConfig(path=str(folder), inexact=str(named) if named.exists() else None))
    anew = msgspec.structs.replace(ANEW, epochs=options.epochs)
    tune = msgspec.structs.replace(TUNE, epochs=options.tune_epochs)
    result = compared(log, anew, tune, Machine(seed=options.seed, threads=options.threads))
    result = {"data": options.data, "seed": options.seed} | result
    name = "training-warm-start" + ("" if options.data == "ml-1m" else "-ml100k") + ".json"
    (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: run["summary"] for name, run in result["runs"].items()}, indent=1))


def compared(log: Dataset, anew: TrainConfig, tune: TrainConfig, machine: Machine) -> dict[str, Any]:
    """Every way to a model of the first 90 %, measured on the same targets of the last 10 %."""
    whole = parts(log, 0.9)
    before = narrowed(log, 0.8)
    first = fit(before, MODEL, anew, machine, Silent())
    made = {"trained anew on 90 %": (whole, fit(whole, MODEL, anew, machine, Silent()))}
    tell("first 80 %", first)
    tell("trained anew on 90 %", made["trained anew on 90 %"][1])
    longer = extended(whole, first.catalog)
    idle = WarmStart(checkpoint="the first 80 %", noise=0.0)
    made["not trained further"] = (longer, grown_only(Earlier(first, MODEL, idle), longer, machine))
    for name, start in STARTS.items():
        tuned = fine_tune(Earlier(first, MODEL, start), longer, tune, machine, Silent())
        made[f"fine-tuned, {name}"] = (longer, tuned)
        tell(name, tuned)
    return {
        "protocol": whole.protocol + ", whole catalogue ranked, seen items left out",
        "events": len(log.interactions),
        "items": {"first": len(first.catalog), "whole": len(longer.items)},
        "model": msgspec.to_builtins(MODEL),
        "anew": msgspec.to_builtins(anew),
        "tune": msgspec.to_builtins(tune),
        "first": {"seconds": first.lineage[-1].seconds, "validation": first.metrics},
        "runs": measured(made),
        "machine": describe(),
    }


def measured(made: dict[str, tuple[Dataset, Checkpoint]]) -> dict[str, Any]:
    """Figures of each, and paired differences to the first of them."""
    runs: dict[str, Any] = {}
    baseline: NDArray[np.float64] | None = None
    for name, (dataset, checkpoint) in made.items():
        ranks, evaluation = ranked(dataset, checkpoint)
        own = per_target(ranks.ranks, (10,))["ndcg@10"]
        baseline = own if baseline is None else baseline
        gap = paired_difference(own, baseline, groups=ranks.users)
        seconds = checkpoint.lineage[-1].seconds if name != "not trained further" else 0.0
        ndcg, hr = (evaluation.figures[metric].value for metric in ("ndcg@10", "hr@10"))
        runs[name] = {
            "summary": {"ndcg@10": ndcg, "hr@10": hr, "seconds": seconds, "against anew": gap._asdict()},
            "validation": checkpoint.metrics,
            "evaluation": msgspec.to_builtins(evaluation),
        }
    return runs


def ranked(dataset: Dataset, checkpoint: Checkpoint) -> tuple[Ranks, Any]:
    asked = targets(dataset, TEST)
    ranks = rank_checkpoint(checkpoint, dataset, asked, repeats=False)
    return ranks, summarised(ranks, dataset, asked, checkpoint.popularity, repeats=False)


def parts(log: Dataset, known: float) -> Dataset:
    """The log cut by time: the first `known` share trains, its last tenth validates, the rest tests."""
    times = np.sort(log.interactions.times)
    cut = times[round(known * len(times))]
    validation = times[round(0.98 * known * len(times))]
    roles = np.full(len(times), TRAIN, np.uint8)
    roles[log.interactions.times >= validation] = VALIDATION
    roles[log.interactions.times >= cut] = TEST
    return log.with_roles(roles, f"global-time (train {known:g}, of which the last 0.02 validates; then test)")


def narrowed(log: Dataset, known: float) -> Dataset:
    """What a first model could know: the events before the cut, and only the items that they hold."""
    whole = parts(log, known)
    kept = whole.roles != TEST
    events = whole.interactions.take(kept)
    rows = np.unique(events.items)
    new = np.zeros(len(log.items) + 1, np.int32)
    new[rows] = np.arange(1, len(rows) + 1)
    items = Catalog(Vocabulary([log.items.vocabulary.id(int(row)) for row in rows]))
    return replace(whole, interactions=replace(events, items=new[events.items]), items=items, roles=whole.roles[kept])


def grown_only(earlier: Earlier, dataset: Dataset, machine: Machine) -> Checkpoint:
    """The first model as it was, over the larger catalogue."""
    from millirec.models.config import build
    from millirec.train.fine_tune import grown

    old = earlier.checkpoint
    parameters = grown(earlier, build(MODEL, len(dataset.items)).state_dict(), dataset, machine.seed)
    return replace(old, parameters=parameters, catalog=dataset.items, popularity=dataset.popularity)


def tell(name: str, checkpoint: Checkpoint) -> None:
    print(f"{name}: {checkpoint.metrics}, {checkpoint.lineage[-1].seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
