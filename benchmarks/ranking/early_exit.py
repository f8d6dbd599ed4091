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
from benchmarks.ranking.turns import gain, in_turns, store_for
from millirec.bundle import Bundle, PackConfig, RankerPart, pack
from millirec.cascade.cascade import CascadeConfig
from millirec.cascade.early_exit import EarlyExit
from millirec.cascade.query import Ranking
from millirec.cascade.scorers import InnerProductScorer, RankerScorer
from millirec.cli.artifact import Artifact
from millirec.config import RunConfig, convert, dumps
from millirec.data.dataset import Dataset
from millirec.data.features import FieldConfig, known_events
from millirec.data.labels import LabelConfig, labels_of
from millirec.engine.engine import Engine
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
FOLDER, WARM, K = RUNS / "early-exit", 2_000, 10
EXITS: dict[str, EarlyExit | None] = {
    "off": None,
    "block 50, confidence 0.99": EarlyExit(block=50, confidence=0.99),
    "block 100, confidence 0.99": EarlyExit(block=100, confidence=0.99),
    "block 50, confidence 0.9": EarlyExit(block=50, confidence=0.9),
    "block 100, confidence 0.9": EarlyExit(block=100, confidence=0.9),
}


def retrieved() -> tuple[Checkpoint, Dataset]:
    """The sequence model, trained now when there is none, and its data."""
    if not (FOLDER / "checkpoint").exists():
        data = {"kind": "movielens", "path": str(shared("ml-100k"))}
        settings = SPEC["retrieval"] | {"data": data, "name": "early-exit", "out": str(RUNS), "machine": {"threads": 1}}
        trained(RUNS, "early-exit", dumps(convert(settings, RunConfig, "early-exit")), resume=True)
    return Checkpoint.load(FOLDER / "checkpoint"), Artifact.open(FOLDER / "checkpoint").data(None)


def part_of(model: Checkpoint, dataset: Dataset, name: str, **more: Any) -> RankerPart:
    """A ranker of the model's candidates, ready to be packed; trained now when there is none of this name.

    `more`: settings of the ranker that differ from early_exit.toml; `candidates`: of how many it learns.
    """
    folder = FOLDER / name
    if folder.exists():
        ranker = RankerCheckpoint.load(folder)
    else:
        told = {"candidates": more.pop("candidates")} if "candidates" in more else {}
        config: CandidateConfig = convert(SPEC["candidates"] | told, CandidateConfig, "candidates")
        fields: list[FieldConfig] = convert(SPEC["features"], list[FieldConfig], "features")
        rows, featuriser = candidate_rows(dataset, LABEL, found_for(model, dataset, config), fields, config)
        how = Training(convert(SPEC["train"], RankTrainConfig, "train"), Machine(threads=1), Silent())
        kind: RankerConfig = convert(SPEC["ranker"] | more, RankerConfig, "ranker")
        ranker = fit_rows(RankerRows(rows, featuriser, LABEL, provenance_of(dataset), config), kind, how)
        ranker.save(folder)
    return RankerPart(ranker, known_events(dataset, labels_of(dataset, LABEL)))


def made() -> tuple[Bundle, Dataset]:
    """The bundle of both, and the data."""
    model, dataset = retrieved()
    return pack(model, FOLDER / "ranker.bundle", PackConfig(), part_of(model, dataset, "ranker")), dataset


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
        self.gains.append(gain(answer, item))
        self.lists.append(answer.items)
        self.scored.append(stages["ranker"].n_out)
        self.micros.append(stages["features"].microseconds + stages["ranker"].microseconds)


def replayed(bundle: Bundle, dataset: Dataset) -> tuple[dict[str, Seen], NDArray[np.int32]]:
    """The test part through all engines; the user of each question."""
    seen, places = {name: Seen() for name in EXITS}, []
    with store_for(bundle.max_length) as store:
        ways = {name: Engine(bundle, store, cascade=_cascade(early)).recommend for name, early in EXITS.items()}
        for turn in in_turns(store, dataset, ways, K):
            places.append(turn.place)
            for name, answer in turn.answers.items():
                seen[name].add(answer, turn.item)
    return seen, dataset.interactions.users[np.array(places)]


def _cascade(early: EarlyExit | None) -> CascadeConfig:
    return CascadeConfig(scorers=(InnerProductScorer(), RankerScorer(candidates=200, early_exit=early)))


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
