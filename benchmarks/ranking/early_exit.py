"""What early exit of the ranker saves, and what it changes, on MovieLens-100k under global time.

    python -m benchmarks.ranking.early_exit            two minutes of a core, and one more to train at first
    python -m benchmarks.ranking.early_exit --table    only the table in docs/cascade.md

A small SASRec and a ranker of 200 of its candidates (early_exit.toml), packed; the test part is replayed event by event
through engines on one store that differ in early exit alone, one question at a time to each in turn. Figures are of the
questions after the first `WARM`, audits among them. Leaves benchmarks/results/ranking-early-exit.json.
"""

import argparse
import json
import os
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe
from benchmarks.paste import ROOT, paste, table
from benchmarks.quality.train import trained
from benchmarks.ranking.runs import RUNS, shared
from millirec.bundle import Bundle, PackConfig, RankerPart, pack
from millirec.cascade.cascade import CascadeConfig
from millirec.cascade.early_exit import EarlyExit
from millirec.cascade.query import Query, Ranking
from millirec.cascade.scorers import InnerProductScorer, RankerScorer
from millirec.cli.artifact import Artifact
from millirec.config import RunConfig, convert, dumps
from millirec.data.dataset import TEST, Dataset
from millirec.data.event import Event
from millirec.data.features import FieldConfig, known_events
from millirec.data.history import HistoryLimits
from millirec.data.labels import LabelConfig, labels_of
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore, StoreSettings
from millirec.metrics.bootstrap import paired_difference
from millirec.models.checkpoint import Checkpoint
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.models.rankers.config import RankerConfig
from millirec.train.candidates import CandidateConfig, candidate_rows, found_for
from millirec.train.fit import provenance_of
from millirec.train.fit_ranker import RankerRows, Training, fit_rows
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.rank_config import RankTrainConfig

SPEC = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
RESULT = ROOT / "benchmarks" / "results" / "ranking-early-exit.json"
LABEL: LabelConfig = convert(SPEC["label"], LabelConfig, "label")
WARM, K = 2_000, 10
EXITS: dict[str, EarlyExit | None] = {
    "off": None,
    "block 50, confidence 0.99": EarlyExit(block=50, confidence=0.99),
    "block 100, confidence 0.99": EarlyExit(block=100, confidence=0.99),
    "block 50, confidence 0.9": EarlyExit(block=50, confidence=0.9),
    "block 100, confidence 0.9": EarlyExit(block=100, confidence=0.9),
}


def made(hidden: tuple[int, ...] | None = None) -> tuple[Bundle, Dataset]:
    """The bundle of both models, and the data; trained now when there is none. `hidden`: of another ranker."""
    folder, name = RUNS / "early-exit", "-".join(["ranker", *map(str, hidden or ())])
    if not (folder / "checkpoint").exists():
        data = {"kind": "movielens", "path": str(shared("ml-100k"))}
        settings = SPEC["retrieval"] | {"data": data, "name": "early-exit", "out": str(RUNS), "machine": {"threads": 1}}
        trained(RUNS, "early-exit", dumps(convert(settings, RunConfig, "early-exit")), resume=True)
    dataset, model = Artifact.open(folder / "checkpoint").data(None), Checkpoint.load(folder / "checkpoint")
    settings = SPEC["ranker"] | ({} if hidden is None else {"hidden": hidden})
    ranker = _ranker(model, dataset, folder / name, convert(settings, RankerConfig, "ranker"))
    part = RankerPart(ranker, known_events(dataset, labels_of(dataset, LABEL)))
    return pack(model, folder / f"{name}.bundle", PackConfig(), part), dataset


def _ranker(model: Checkpoint, dataset: Dataset, folder: Path, ranker: RankerConfig) -> RankerCheckpoint:
    if folder.exists():
        return RankerCheckpoint.load(folder)
    config: CandidateConfig = convert(SPEC["candidates"], CandidateConfig, "candidates")
    fields: list[FieldConfig] = convert(SPEC["features"], list[FieldConfig], "features")
    rows, featuriser = candidate_rows(dataset, LABEL, found_for(model, dataset, config), fields, config)
    train: RankTrainConfig = convert(SPEC["train"], RankTrainConfig, "train")
    how = Training(train=train, machine=Machine(threads=1), journal=Silent())
    out = fit_rows(RankerRows(rows, featuriser, LABEL, provenance_of(dataset), config), ranker, how)
    out.save(folder)
    return out


class Seen:
    """What one engine answered: NDCG@10, lists, how many candidates were scored, microseconds of the second stage."""

    def __init__(self) -> None:
        self.gains: list[float] = []
        self.lists: list[tuple[str, ...]] = []
        self.scored: list[int] = []
        self.micros: list[float] = []

    def add(self, answer: Ranking, item: str) -> None:
        """One answer, and what was taken next."""
        stages = {stage.name: stage for stage in answer.trace}
        at = answer.items.index(item) + 1 if item in answer.items else 0
        self.gains.append(1 / np.log2(at + 1.0) if at else 0.0)
        self.lists.append(answer.items)
        self.scored.append(stages["ranker"].n_out)
        self.micros.append(stages["features"].microseconds + stages["ranker"].microseconds)


def replayed(bundle: Bundle, dataset: Dataset) -> tuple[dict[str, Seen], NDArray[np.int32]]:
    """The test part through all engines; the user of each question."""
    log, users, items = dataset.interactions, dataset.users.vocabulary, dataset.items.vocabulary
    places = np.flatnonzero(dataset.roles == TEST)
    places = places[np.argsort(log.times[places], kind="stable")]
    seen = {name: Seen() for name in EXITS}
    limits = HistoryLimits().covering(bundle.max_length)
    with StateStore.temporary(StoreSettings(limits=limits)) as store:
        engines = {name: Engine(bundle, store, cascade=_cascade(early)) for name, early in EXITS.items()}
        older = np.flatnonzero(dataset.roles != TEST)
        store.append([event_of(dataset, int(place)) for place in older[np.argsort(log.times[older], kind="stable")]])
        for place in places.tolist():
            query = Query(user=users.id(int(log.users[place])), time=int(log.times[place]), k=K)
            for name, engine in engines.items():
                seen[name].add(engine.recommend(query), items.id(int(log.items[place])))
            store.append([event_of(dataset, place)])
    return seen, log.users[places]


def _cascade(early: EarlyExit | None) -> CascadeConfig:
    return CascadeConfig(scorers=(InnerProductScorer(), RankerScorer(candidates=200, early_exit=early)))


def event_of(dataset: Dataset, place: int) -> Event:
    """One event of the log."""
    log = dataset.interactions
    user, item = dataset.users.vocabulary.id(int(log.users[place])), dataset.items.vocabulary.id(int(log.items[place]))
    return Event(
        user=user, item=item, time=int(log.times[place]), value=None if log.values is None else float(log.values[place])
    )


def compared(seen: dict[str, Seen], users: NDArray[np.int32]) -> list[dict[str, Any]]:
    """The figures of each way, after the first questions."""
    whole, rows, groups = seen["off"], [], users[WARM:]
    sequence = np.array(whole.scored[WARM:]) == 200
    for name, own in seen.items():
        scored, gains = np.array(own.scored[WARM:]), np.array(own.gains[WARM:])
        same = np.array([a == b for a, b in zip(own.lists[WARM:], whole.lists[WARM:], strict=True)])
        row: dict[str, Any] = {"early exit": name, "ndcg@10": float(gains.mean())}
        row["stops"] = float((scored[sequence] < 200).mean())
        row["scored"] = float(scored.mean() / np.mean(whole.scored[WARM:]))
        row["unchanged"] = float(same.mean())
        row["unchanged_where_stopped"] = float(same[scored < 200].mean()) if (scored < 200).any() else None
        row["p50_us"] = round(float(np.median(own.micros[WARM:])), 1)
        if name != "off":
            found = paired_difference(gains, np.array(whole.gains[WARM:]), groups=groups)
            row["difference"], row["p_value"] = [found.mean, found.low, found.high], found.p_value
        rows.append(row)
    return rows


def shown(result: dict[str, Any]) -> str:
    """The table for docs/cascade.md."""
    rows = []
    for row in result["rows"]:
        gain = ""
        if "difference" in row:
            mean, low, high = row["difference"]
            gain = f" ({mean:+.4f}, {low:+.4f} to {high:+.4f})"
        rows.append(
            [
                row["early exit"],
                f"{row['stops']:.1%}",
                f"{row['scored']:.1%}",
                f"{row['p50_us']:,.0f}",
                f"{row['unchanged']:.2%}",
                f"{row['ndcg@10']:.4f}{gain}",
            ]
        )
    head = ["early exit", "stops", "candidates scored", "features and ranker, p50, us", "same ten", "NDCG@10"]
    return table(head, rows)


def main() -> None:
    """Train, replay, write, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="only write the table again")
    if not parser.parse_args().table:
        seen, users = replayed(*made())
        result = {
            "rows": compared(seen, users),
            "questions": len(users) - WARM,
            "config": SPEC,
            "load": round(os.getloadavg()[0], 1),
            "machine": describe(),
        }
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    paste("cascade.md", "early-exit", shown(json.loads(RESULT.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
