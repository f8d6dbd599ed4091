"""What a pre-ranker saves and what it costs: MovieLens-1M under global time, through the engine that serves.

    python -m benchmarks.ranking.pre_rank            ten minutes of a core; `two_stage` trains the retrieval
    python -m benchmarks.ranking.pre_rank --table    only the table in docs/cascade.md

The SASRec of `two_stage`; a `din` with all 40 features, which attends to histories anew for each candidate; before it a
`dnn` with one hidden layer of 32 and eleven features, none of them of a person with a film. All cascades are asked in
turns for `--events` events of the test part, on one store. Leaves benchmarks/results/ranking-pre-rank.json.
"""

import argparse
import json
import os
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe
from benchmarks.paste import ROOT, paste, table
from benchmarks.ranking.runs import RUNS
from benchmarks.ranking.turns import gain, in_turns, store_for
from benchmarks.ranking.two_stage import LABEL, ranked, retrieved
from millirec.bundle import Bundle, PackConfig, RankerPart, pack
from millirec.cascade.cascade import CascadeConfig
from millirec.cascade.query import Ranking
from millirec.cascade.scorers import InnerProductScorer, PreRankerScorer, RankerScorer
from millirec.data.dataset import Dataset
from millirec.data.features import known_events
from millirec.data.labels import labels_of
from millirec.engine.engine import Engine
from millirec.metrics.bootstrap import confidence_interval, paired_difference
from millirec.models.checkpoint import Checkpoint

RESULT = ROOT / "benchmarks" / "results" / "ranking-pre-rank.json"
FOLDER, MANY, K, WARM = RUNS / "two-stage", 1_000, 10, 200
FEW = ("retrieval score", "retrieval rank", "item", "year", "age of the film", "gap", "film events 1d")
FEW += ("film events 7d", "film events all", "film rate all", "age and film rate")
BASE = "200 ranked"


def bundles() -> tuple[dict[str, Bundle], Dataset]:
    """Every cascade, packed, and the data."""
    model, dataset = retrieved()
    light, heavy = parts(model, dataset)
    both = replace(heavy, pre=light)
    ways: dict[str, tuple[RankerPart | None, int | None, int]] = {
        "retrieval alone": (None, None, 0),
        "200 by the pre-ranker alone": (light, None, 200),
        "200 ranked": (heavy, None, 200),
        "200 pre-ranked, 100 ranked": (both, 200, 100),
        "200 pre-ranked, 50 ranked": (both, 200, 50),
        "1,000 ranked": (heavy, None, MANY),
        "1,000 pre-ranked, 200 ranked": (both, MANY, 200),
        "1,000 pre-ranked, 50 ranked": (both, MANY, 50),
    }
    packed = {
        name: pack(model, FOLDER / f"pre-rank-{at}.bundle", PackConfig(cascade=_cascade(pre, n)), own)
        for at, (name, (own, pre, n)) in enumerate(ways.items())
    }
    return packed, dataset


def parts(model: Checkpoint, dataset: Dataset) -> tuple[RankerPart, RankerPart]:
    """The pre-ranker and the ranker, trained now where there is none."""
    known = known_events(dataset, labels_of(dataset, LABEL))
    light = ranked(model, dataset, FOLDER / "pre-ranker", features=FEW, hidden=[32])[0]
    return RankerPart(light, known), RankerPart(ranked(model, dataset, FOLDER / "din", kind="din")[0], known)


def _cascade(pre: int | None, ranked: int) -> CascadeConfig:
    first = () if pre is None else (PreRankerScorer(candidates=pre),)
    last = (RankerScorer(candidates=ranked),) if ranked else ()
    return CascadeConfig(scorers=(InnerProductScorer(), *first, *last))


def replayed(
    packed: dict[str, Bundle], dataset: Dataset, n: int
) -> tuple[dict[str, list[float]], dict[str, list[float]], NDArray[np.int32]]:
    """NDCG@10 and the microseconds of the rankers for each question by each cascade; the user of each."""
    gains: dict[str, list[float]] = {name: [] for name in packed}
    micros: dict[str, list[float]] = {name: [] for name in packed}
    places = []
    with store_for(max(bundle.max_length for bundle in packed.values())) as store:
        ways = {name: Engine(bundle, store).recommend for name, bundle in packed.items()}
        for turn in in_turns(store, dataset, ways, K, n):
            places.append(turn.place)
            for name, answer in turn.answers.items():
                gains[name].append(gain(answer, turn.item))
                micros[name].append(_micros(answer))
    return gains, micros, dataset.interactions.users[np.array(places)]


def _micros(answer: Ranking) -> float:
    return sum(stage.microseconds for stage in answer.trace if stage.name.endswith(("features", "ranker")))


def measure(n: int) -> dict[str, Any]:
    """The whole benchmark as one JSON object."""
    packed, dataset = bundles()
    gains, micros, users = replayed(packed, dataset, n)
    base, rows = np.array(gains[BASE]), []
    for name, own in gains.items():
        values = np.array(own)
        found, spread = paired_difference(values, base, groups=users), confidence_interval(values, groups=users)
        row: dict[str, Any] = {"cascade": name, "ndcg@10": [spread.mean, spread.low, spread.high]}
        row["difference"] = [found.mean, found.low, found.high, found.p_value]
        row["p50_us"] = round(float(np.median(micros[name][WARM:])), 1)
        rows.append(row)
    machine = {"load": round(os.getloadavg()[0], 1), "machine": describe()}
    return {"rows": rows, "questions": n, "users": len(np.unique(users)), "pre_ranker_features": FEW} | machine


def shown(result: dict[str, Any]) -> str:
    """The table for docs/cascade.md."""
    rows = []
    for row in result["rows"]:
        mean, low, high = row["ndcg@10"]
        gap = "" if row["cascade"] == BASE else f"{row['difference'][0]:+.4f} (p = {row['difference'][3]:.2g})"
        took = f"{row['p50_us']:,.0f}" if row["p50_us"] else ""
        rows.append([row["cascade"], f"{mean:.4f} [{low:.4f}, {high:.4f}]", gap, took])
    return table(["cascade", "NDCG@10", "to 200 ranked", "features and rankers, p50, us"], rows)


def main() -> None:
    """Train, replay, write, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000, help="of the test part")
    parser.add_argument("--table", action="store_true", help="only write the table again")
    options = parser.parse_args()
    if not options.table:
        RESULT.write_text(json.dumps(measure(options.events), indent=1) + "\n", encoding="utf-8")
    paste("cascade.md", "pre-rank", shown(json.loads(RESULT.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
