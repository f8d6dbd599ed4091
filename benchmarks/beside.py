"""Counts beside a network: what each table adds to quality, and what it costs in time and in the size of the bundle.

    python -m benchmarks.quality --set beauty --only sasrec markov item-knn     first: the runs, some minutes
    python -m benchmarks.beside                                                 some minutes more
    python -m benchmarks.beside --latency | --table                             only the times again; only the table

The test part of Amazon Beauty (S3-Rec's cut, 12,101 items) replayed through the engine that serves, on bundles of
SASRec alone and with one and two tables beside it, with paired tests against SASRec alone. Times are of one question at
a time with a test user's history, the bundles taking turns. Figures go to benchmarks/results/beside.json.
"""

import argparse
import gc
import json
import os
import time
from typing import Any

import numpy as np

from benchmarks.engines import difference, engine_of, gains_of, told
from benchmarks.machine import describe
from benchmarks.paste import ROOT, paste, table
from benchmarks.quality.train import RUNS
from millirec.bundle import Bundle, open_bundle, pack
from millirec.cascade.query import Query
from millirec.cli.artifact import Artifact
from millirec.data.dataset import TEST, Dataset
from millirec.data.split import targets
from millirec.frontier.beside import fitted_beside
from millirec.frontier.replay import replay
from millirec.models.checkpoint import Checkpoint

RESULT = ROOT / "benchmarks" / "results" / "beside.json"
PREFIX, NETWORK = "beauty-leave-last-out", "sasrec"
TABLES = ((), ("markov",), ("item-knn",), ("markov", "item-knn"))


def bundle_of(names: tuple[str, ...], seed: int, dataset: Dataset) -> Bundle:
    """The network with these baselines beside it."""
    network, *others = [Checkpoint.load(RUNS / f"{PREFIX}-{one}-{seed}" / "checkpoint") for one in (NETWORK, *names)]
    beside = fitted_beside(network, others, dataset, repeats=False)[0] if names else []
    return pack(network, folder_of(names), beside=beside)


def folder_of(names: tuple[str, ...]) -> Any:
    """Where the bundle is kept."""
    return RUNS.parent / "beside" / "-".join((NETWORK, *names))


def quality(seed: int) -> list[dict[str, Any]]:
    """Every bundle replayed, with its difference to the network alone."""
    data = Artifact.open(RUNS / f"{PREFIX}-{NETWORK}-{seed}" / "checkpoint").data(None)
    users = data.sequences.users[targets(data, TEST).places]
    folder_of(()).parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    first = np.empty(0)
    for names in TABLES:
        bundle = bundle_of(names, seed, data)
        engine = engine_of(bundle)
        ranks = replay(engine, data, TEST).ranks
        engine.close()
        gain = gains_of(ranks)
        row = {"beside": names, "ndcg@10": float(gain.mean()), "hr@10": float((ranks <= 10).mean())}
        row |= {"bytes": bundle.bytes, "gains": [[one.gain.weight, one.gain.floor] for one in bundle.manifest.counts]}
        if names:
            row |= difference(gain, first, users)
        else:
            first = gain
        rows.append(row)
        print(row, flush=True)
    return rows


def latency(seed: int, n: int) -> list[dict[str, float]]:
    """p50 and p99 in microseconds of `n` questions to each bundle."""
    data = Artifact.open(RUNS / f"{PREFIX}-{NETWORK}-{seed}" / "checkpoint").data(None)
    asked, items, ids = targets(data, TEST), data.sequences.items, data.items.vocabulary.ids
    spans = list(zip(asked.starts.tolist(), asked.places.tolist(), strict=True))[: n + 50]
    queries = [Query(items=tuple(ids[row - 1] for row in items[start:place][-50:])) for start, place in spans]
    engines = [engine_of(open_bundle(folder_of(names))) for names in TABLES]
    times = np.zeros((len(engines), len(queries)))
    gc.disable()
    for number, query in enumerate(queries):
        for place, engine in enumerate(engines):
            began = time.perf_counter()
            engine.recommend(query)
            times[place, number] = 1e6 * (time.perf_counter() - began)
    gc.enable()
    for engine in engines:
        engine.close()
    return [{f"p{p}": round(float(np.percentile(own[50:], p))) for p in (50, 99)} for own in times]


def shown(result: dict[str, Any]) -> str:
    """The table for docs/cascade.md."""
    rows = []
    for row in result["rows"]:
        cost = [f"{row['bytes'] / 1e6:.1f} MB", f"{row['microseconds']['p50']:,}"]
        name = " + ".join((NETWORK, *row["beside"]))
        rows.append([name, f"{row['ndcg@10']:.4f}", f"{row['hr@10']:.4f}", told(row), *cost])
    head = ["bundle", "NDCG@10", "HR@10", "NDCG@10 against SASRec alone", "size", "an answer, us (p50)"]
    return table(head, rows)


def main() -> None:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=42, help="of the runs")
    parser.add_argument("--questions", type=int, default=5_000, help="for the times")
    parser.add_argument("--latency", action="store_true", help="only the times again, of the bundles that are there")
    parser.add_argument("--table", action="store_true", help="only write the table again")
    options = parser.parse_args()
    if not options.table:
        rows = json.loads(RESULT.read_text(encoding="utf-8"))["rows"] if options.latency else quality(options.seed)
        for row, found in zip(rows, latency(options.seed, options.questions), strict=True):
            row["microseconds"] = found
        about = {"machine": describe(), "niceness": os.nice(0), "seed": options.seed, "questions": options.questions}
        RESULT.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n", encoding="utf-8")
    paste("cascade.md", "beside", shown(json.loads(RESULT.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
