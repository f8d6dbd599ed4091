"""Counts beside a network: what each table adds to quality, and what it costs in time and in the size of the bundle.

    python -m benchmarks.quality --set beauty --only sasrec markov item-knn          first: the runs, some minutes
    python -m benchmarks.quality --set diginetica --only sasrec markov item-knn vmis-knn
    python -m benchmarks.beside [--set beauty]                                       some minutes more
    python -m benchmarks.beside --latency | --table                                  only times; only the tables

The test parts of Amazon Beauty (S3-Rec's cut, 12,101 items) and of Diginetica (43,097 items) replayed through the
engine that serves, on bundles of SASRec alone and with tables beside it, with paired tests against SASRec alone. Times
are of one question at a time with a test user's history, the bundles taking turns. Figures go to
benchmarks/results/beside.json.
"""

import argparse
import gc
import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

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
NETWORK = "sasrec"


class Case(NamedTuple):
    """A data set: the protocol of its runs, what stands beside the network, whether seen items come again."""

    name: str
    protocol: str
    tables: tuple[tuple[str, ...], ...]
    repeats: bool

    def run(self, model: str, seed: int) -> Path:
        """The checkpoint of a run."""
        return RUNS / f"{self.name}-{self.protocol}-{model}-{seed}" / "checkpoint"

    def bundle(self, names: tuple[str, ...]) -> Path:
        """Where the bundle with these baselines is kept."""
        return RUNS.parent / "beside" / "-".join((self.name, NETWORK, *names))


CASES = {
    "beauty": Case("beauty", "leave-last-out", ((), ("markov",), ("item-knn",), ("markov", "item-knn")), repeats=False),
    "diginetica": Case(
        "diginetica", "given", ((), ("markov",), ("item-knn",), ("vmis-knn",), ("markov", "vmis-knn")), repeats=True
    ),
}


def made(case: Case, names: tuple[str, ...], seed: int, dataset: Dataset) -> Bundle:
    """The network with these baselines beside it."""
    network, *others = [Checkpoint.load(case.run(one, seed)) for one in (NETWORK, *names)]
    beside = fitted_beside(network, others, dataset, repeats=case.repeats)[0] if names else []
    return pack(network, case.bundle(names), beside=beside)


def quality(case: Case, seed: int) -> list[dict[str, Any]]:
    """Every bundle replayed, with its difference to the network alone."""
    data = Artifact.open(case.run(NETWORK, seed)).data(None)
    users = data.sequences.users[targets(data, TEST, repeats=case.repeats).places]
    case.bundle(()).parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    first = np.empty(0)
    for names in case.tables:
        bundle = made(case, names, seed, data)
        engine = engine_of(bundle)
        ranks = replay(engine, data, TEST, repeats=case.repeats).ranks
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


def latency(case: Case, seed: int, n: int) -> list[dict[str, float]]:
    """p50 and p99 in microseconds of `n` questions to each bundle."""
    data = Artifact.open(case.run(NETWORK, seed)).data(None)
    asked, items, ids = targets(data, TEST, repeats=case.repeats), data.sequences.items, data.items.vocabulary.ids
    spans = list(zip(asked.starts.tolist(), asked.places.tolist(), strict=True))[: n + 50]
    queries = [Query(items=tuple(ids[row - 1] for row in items[start:place][-50:])) for start, place in spans]
    engines = [engine_of(open_bundle(case.bundle(names))) for names in case.tables]
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


def shown(result: list[dict[str, Any]]) -> str:
    """A table for docs/cascade.md."""
    rows = []
    for row in result:
        cost = [f"{row['bytes'] / 1e6:.1f} MB", f"{row['microseconds']['p50']:,}"]
        name = " + ".join((NETWORK, *row["beside"]))
        rows.append([name, f"{row['ndcg@10']:.4f}", f"{row['hr@10']:.4f}", told(row), *cost])
    head = ["bundle", "NDCG@10", "HR@10", "NDCG@10 against SASRec alone", "size", "an answer, us (p50)"]
    return table(head, rows)


def main() -> None:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="+", choices=list(CASES), default=list(CASES), help="all when left out")
    parser.add_argument("--seed", type=int, default=42, help="of the runs")
    parser.add_argument("--questions", type=int, default=5_000, help="for the times")
    parser.add_argument("--latency", action="store_true", help="only the times again, of the bundles that are there")
    parser.add_argument("--table", action="store_true", help="only write the table again")
    options = parser.parse_args()
    known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for name in [] if options.table else options.set:
        rows = known[name]["rows"] if options.latency else quality(CASES[name], options.seed)
        for row, found in zip(rows, latency(CASES[name], options.seed, options.questions), strict=True):
            row["microseconds"] = found
        about = {"machine": describe(), "niceness": os.nice(0), "seed": options.seed, "questions": options.questions}
        known[name] = about | {"rows": rows}
        RESULT.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    for name, result in known.items():
        paste("cascade.md", f"beside-{name}", shown(result["rows"]))


if __name__ == "__main__":
    main()
