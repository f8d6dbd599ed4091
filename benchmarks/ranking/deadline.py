"""Deadlines with a ranker that is far too slow: are they kept over HTTP, and what do the answers lose?

    python -m benchmarks.ranking.deadline            some six minutes; trains the models at first
    python -m benchmarks.ranking.deadline --table    only the table in docs/cascade.md

The cascade of `early_exit` on MovieLens-100k under global time, with a trained ranker of two hidden layers so wide that
200 candidates take tens of milliseconds. Under each deadline: the first events of the test part, asked one after the
other in turns (what quality is left, and which stage the answers come from), and a load of `--rate` questions a second
with a history of 50 events over HTTP, with Poisson arrivals (latency as the client sees it, from the scheduled time).
Leaves benchmarks/results/ranking-deadline.json.
"""

import argparse
import json
import os
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.deadline import TOLERANCE_MS, over_http
from benchmarks.machine import describe
from benchmarks.paste import ROOT, paste, table
from benchmarks.ranking.early_exit import event_of, made
from millirec.bundle import Bundle
from millirec.cascade.query import Query
from millirec.data.dataset import TEST, Dataset
from millirec.data.history import HistoryLimits
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore, StoreSettings
from millirec.metrics.bootstrap import paired_difference

RESULT = ROOT / "benchmarks" / "results" / "ranking-deadline.json"
HIDDEN = (2048, 2048)
WARM, K = 200, 10


class Seen:
    """What was answered under one deadline: NDCG@10 of each question, and the stages that the answers came from."""

    def __init__(self) -> None:
        self.gains: list[float] = []
        self.stages: Counter[str] = Counter()
        self.ranker_ms: list[float] = []


def replayed(
    bundle: Bundle, dataset: Dataset, deadlines: list[float | None], n: int
) -> tuple[list[Seen], NDArray[np.int32]]:
    """The first `n` events of the test part behind `WARM`, each asked under every deadline; the user of each."""
    log, users, items = dataset.interactions, dataset.users.vocabulary, dataset.items.vocabulary
    by_time = np.argsort(log.times, kind="stable")
    places = by_time[dataset.roles[by_time] == TEST][: WARM + n]
    seen = [Seen() for _ in deadlines]
    limits = HistoryLimits().covering(bundle.max_length)
    with StateStore.temporary(StoreSettings(limits=limits)) as store:
        engines = [Engine(bundle, store) for _ in deadlines]
        store.append([event_of(dataset, int(place)) for place in by_time[dataset.roles[by_time] != TEST]])
        for number, place in enumerate(places.tolist()):
            user, time = users.id(int(log.users[place])), int(log.times[place])
            wanted = items.id(int(log.items[place]))
            for engine, deadline, own in zip(engines, deadlines, seen, strict=True):
                answer = engine.recommend(Query(user=user, time=time, k=K, deadline_ms=deadline))
                if number < WARM:
                    continue
                at = answer.items.index(wanted) + 1 if wanted in answer.items else 0
                own.gains.append(1 / np.log2(at + 1.0) if at else 0.0)
                own.stages[answer.stage or "full"] += 1
                own.ranker_ms += [stage.microseconds / 1e3 for stage in answer.trace if stage.name == "ranker"]
            store.append([event_of(dataset, place)])
    return seen, log.users[places[WARM:]]


def measure(rate: float, seconds: float, deadlines: list[float], n: int) -> dict[str, Any]:
    """The whole benchmark as one JSON object."""
    bundle, dataset = made(HIDDEN)
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
    result = {"hidden": HIDDEN, "ranker_ms": round(float(np.median(seen[0].ranker_ms)), 1), "questions": len(users)}
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
