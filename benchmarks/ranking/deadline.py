"""Deadlines with a ranker that is far too slow: are they kept over HTTP, and what do the answers lose?

    python -m benchmarks.ranking.deadline            ten minutes; `pre_rank` trains the models
    python -m benchmarks.ranking.deadline --table    only the table in docs/cascade.md

The cascade of `pre_rank` on MovieLens-1M under global time: retrieve 1,000, pre-rank, rank 200. The ranker's hidden
layers are widened by neurons that say nothing, so that it answers alike and 200 candidates take tens of milliseconds.
Under each deadline: the first events of the test part, asked one after the other in turns (what quality is left, and
which stage the answers come from), and a load of `--rate` questions a second with a history of 50 events over HTTP,
with Poisson arrivals (latency as the client sees it, from the scheduled time). Leaves
benchmarks/results/ranking-deadline.json.
"""

import argparse
import json
import os
from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from benchmarks.deadline import TOLERANCE_MS, over_http
from benchmarks.machine import describe
from benchmarks.paste import ROOT, paste, table
from benchmarks.ranking.pre_rank import FOLDER, MANY, parts
from benchmarks.ranking.turns import Way, gain, in_turns, store_for
from benchmarks.ranking.two_stage import retrieved
from millirec.bundle import Bundle, PackConfig, pack
from millirec.cascade.cascade import CascadeConfig
from millirec.cascade.query import Ranking
from millirec.cascade.scorers import InnerProductScorer, PreRankerScorer, RankerScorer
from millirec.data.dataset import Dataset
from millirec.engine.engine import Engine
from millirec.metrics.bootstrap import paired_difference
from millirec.models.rankers.base import DeepConfig
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.models.rankers.config import build_ranker

RESULT = ROOT / "benchmarks" / "results" / "ranking-deadline.json"
HIDDEN = (2048, 2048, 64)
WARM, K = 200, 10


class Seen:
    """What was answered under one deadline: NDCG@10 of each question, and the stages that the answers came from."""

    def __init__(self) -> None:
        self.gains: list[float] = []
        self.stages: Counter[str] = Counter()
        self.ranker_ms: list[float] = []
        self.pre_ranker_ms: list[float] = []

    def add(self, answer: Ranking, item: str) -> None:
        """One answer, and what was taken next."""
        took = {stage.name: stage.microseconds / 1e3 for stage in answer.trace}
        self.gains.append(gain(answer, item))
        self.stages[answer.stage or "full"] += 1
        if "ranker" in took:
            self.ranker_ms.append(took["features"] + took["ranker"])
        if "pre-ranker" in took:
            self.pre_ranker_ms.append(took["pre-features"] + took["pre-ranker"])


def made() -> tuple[Bundle, Dataset]:
    """The cascade of `pre_rank`, its ranker slowed down."""
    model, dataset = retrieved()
    light, heavy = parts(model, dataset)
    scorers = (InnerProductScorer(), PreRankerScorer(candidates=MANY), RankerScorer(candidates=200))
    config = PackConfig(cascade=CascadeConfig(scorers=scorers))
    slow = replace(heavy, checkpoint=widened(heavy.checkpoint), pre=light)
    return pack(model, FOLDER / "slow.bundle", config, slow), dataset


def widened(ranker: RankerCheckpoint) -> RankerCheckpoint:
    """The same ranker with so many neurons that say nothing: it answers alike, and takes its time."""
    assert isinstance(ranker.config, DeepConfig)
    config = structs.replace(ranker.config, hidden=HIDDEN)
    found = build_ranker(config, ranker.featuriser.schema()).state_dict()
    for name, own in ranker.parameters.items():
        if found[name].shape != own.shape:
            found[name].zero_()
        found[name][tuple(slice(size) for size in own.shape)] = own
    return replace(ranker, config=config, parameters=dict(found))


def replayed(
    bundle: Bundle, dataset: Dataset, deadlines: list[float | None], n: int
) -> tuple[list[Seen], NDArray[np.int32]]:
    """The first `n` events of the test part behind `WARM`, each asked under every deadline; the user of each."""
    seen, places = {str(deadline): Seen() for deadline in deadlines}, []
    with store_for(bundle.max_length) as store:
        ways = {str(deadline): _hurried(Engine(bundle, store), deadline) for deadline in deadlines}
        for turn in islice(in_turns(store, dataset, ways, K, WARM + n), WARM, None):
            places.append(turn.place)
            for name, answer in turn.answers.items():
                seen[name].add(answer, turn.item)
    return list(seen.values()), dataset.interactions.users[np.array(places)]


def _hurried(engine: Engine, deadline: float | None) -> Way:
    return lambda query: engine.recommend(structs.replace(query, deadline_ms=deadline))


def measure(rate: float, seconds: float, deadlines: list[float], n: int) -> dict[str, Any]:
    """The whole benchmark as one JSON object."""
    bundle, dataset = made()
    ways: list[float | None] = [None, *deadlines]
    seen, users = replayed(bundle, dataset, ways, n)
    rows = []
    for deadline, own in zip(ways, seen, strict=True):
        gains = np.array(own.gains)
        found = paired_difference(gains, np.array(seen[0].gains), n=10_000, groups=users)
        row: dict[str, Any] = {"deadline_ms": deadline, "ndcg@10": float(gains.mean())}
        row["stages"] = {name: round(count / len(gains), 4) for name, count in own.stages.most_common()}
        row["difference"] = [found.mean, found.low, found.high]
        if deadline is not None:
            row["http"] = over_http(bundle, deadline, rate, seconds)
            row["kept"] = row["http"]["latency_ms"]["p99"] <= deadline + TOLERANCE_MS and not row["http"]["errors"]
        rows.append(row)
        print(json.dumps({name: value for name, value in row.items() if name != "http"}), flush=True)
    medians = {name: round(float(np.median(getattr(seen[0], name))), 2) for name in ("ranker_ms", "pre_ranker_ms")}
    result: dict[str, Any] = {"hidden": HIDDEN, "candidates": MANY, **medians}
    result["questions"] = len(users)
    result |= {"rate": rate, "seconds": seconds, "load": round(os.getloadavg()[0], 1), "machine": describe()}
    return result | {"rows": rows}


def shown(result: dict[str, Any]) -> str:
    """The table for docs/cascade.md."""
    rows = []
    for row in result["rows"]:
        came = ", ".join(f"{name} {share:.1%}" for name, share in row["stages"].items())
        deadline = "none" if row["deadline_ms"] is None else f"{row['deadline_ms']:g} ms"
        seen = ["", "", "", ""]
        if (http := row.get("http")) is not None:
            over = ", ".join(f"{name} {share:.1%}" for name, share in http["stages"].items() if share)
            seen = [over, *(f"{http['latency_ms'][name]:.1f} ms" for name in ("p50", "p99", "max"))]
        rows.append([deadline, f"{row['ndcg@10']:.4f}", came, *seen])
    return table(["deadline", "NDCG@10", "answers come from", "over HTTP from", "p50", "p99", "max"], rows)


def main() -> None:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=20.0, help="questions a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--deadlines", type=float, nargs="+", default=[100.0, 50.0, 20.0, 10.0, 5.0])
    parser.add_argument("--questions", type=int, default=1_000, help="of the replay")
    parser.add_argument("--table", action="store_true", help="only write the table again")
    options = parser.parse_args()
    if not options.table:
        found = measure(options.rate, options.seconds, options.deadlines, options.questions)
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    paste("cascade.md", "ranker-deadline", shown(json.loads(RESULT.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
