"""Retrieve, then rank: what a second stage adds, measured through the engine that serves.

    python -m benchmarks.ranking.two_stage            trains what is not there yet, in runs/ranking/two-stage
    python -m benchmarks.ranking.two_stage --again    trains the ranker anew on the same retrieval

MovieLens-1M under global time. A sequence model learns from the training part; a ranker from what that model retrieves
on the validation part (two_stage.toml); both are packed and replayed on the test part, event by event, with and without
the second stage. Everything was chosen on the validation part. Leaves benchmarks/results/ranking-two-stage.json.
"""

import argparse
import json
import shutil
import time
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.engines import gains_of
from benchmarks.machine import describe
from benchmarks.quality.train import trained
from benchmarks.ranking.runs import PROTOCOLS, ROOT, RUNS, data_of
from millirec.bundle import Bundle, PackConfig, RankerPart, open_bundle, pack
from millirec.cli.artifact import Artifact
from millirec.config import RunConfig, convert, dumps
from millirec.data.dataset import TEST, Dataset
from millirec.data.features import FieldConfig, known_events
from millirec.data.history import HistoryLimits
from millirec.data.labels import LabelConfig, labels_of
from millirec.data.split import Targets
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore, StoreSettings
from millirec.frontier.replay import Replay, replay
from millirec.metrics.bootstrap import confidence_interval, paired_difference
from millirec.models.checkpoint import Checkpoint
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.models.rankers.config import RankerConfig
from millirec.train.candidates import CandidateConfig, candidate_rows, found_for
from millirec.train.evaluate import sample_targets
from millirec.train.fit import provenance_of
from millirec.train.fit_ranker import RankerRows, Training, fit_rows
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.rank_config import RankTrainConfig

SPEC = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
RESULT = ROOT / "benchmarks" / "results" / "ranking-two-stage.json"
LABEL: LabelConfig = convert(SPEC["label"], LabelConfig, "label")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="train the ranker anew")
    parser.add_argument("--targets", type=int, default=0, help="events of the test part to ask for; 0 = all")
    options = parser.parse_args()
    model, dataset = retrieved()
    ranker, cost = ranked(model, dataset, RUNS / "two-stage" / "ranker", again=options.again)
    bundles = packed(model, ranker, dataset, RUNS / "two-stage", again=options.again)
    asked = sample_targets(dataset, TEST, options.targets, repeats=False, seed=0)
    seen = {name: replayed(bundle, dataset, asked) for name, bundle in bundles.items()}
    result = compared(seen, dataset, asked) | {"ranker": cost, "config": SPEC, "machine": describe()}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("figures", "difference", "relative")}, indent=1))


def retrieved() -> tuple[Checkpoint, Dataset]:
    """The sequence model, trained now when there is none, and its data."""
    folder = RUNS / "two-stage" / "checkpoint"
    if not folder.exists():
        settings = SPEC["retrieval"] | {"split": PROTOCOLS["global-time"], "data": data_of("global-time")}
        places = {"name": "two-stage", "out": str(RUNS), "machine": {"threads": 1}}
        trained(RUNS, "two-stage", dumps(convert(settings | places, RunConfig, "two-stage")), resume=True)
    return Checkpoint.load(folder), Artifact.open(folder).data(None)


def ranked(
    model: Checkpoint,
    dataset: Dataset,
    folder: Path,
    *,
    again: bool = False,
    features: Collection[str] = (),
    **more: Any,
) -> tuple[RankerCheckpoint, dict[str, Any]]:
    """A ranker of the model's candidates, and what it cost in CPU seconds.

    `features`: names of those that it reads; none = all. `more`: settings of it that differ from two_stage.toml.
    """
    costs = folder.with_name(f"{folder.name}-cost.json")
    if folder.exists() and not again:
        return RankerCheckpoint.load(folder), json.loads(costs.read_text())
    started = time.process_time()
    chosen = [field for field in SPEC["features"] if not features or field["name"] in features]
    fields: list[FieldConfig] = convert(chosen, list[FieldConfig], "features")
    asked: CandidateConfig = convert(SPEC["candidates"], CandidateConfig, "candidates")
    found = found_for(model, dataset, asked)
    rows, featuriser = candidate_rows(dataset, LABEL, found, fields, asked)
    made = time.process_time()
    config: RankerConfig = convert(SPEC["ranker"] | more, RankerConfig, "ranker")
    train: RankTrainConfig = convert(SPEC["train"], RankTrainConfig, "train")
    what = RankerRows(rows, featuriser, LABEL, provenance_of(dataset), asked)
    how = Training(train=train, machine=Machine(threads=1), journal=Silent())
    ranker = fit_rows(what, config, how)
    cost = {
        "rows": len(rows),
        "hit_rate": float((found.rows == dataset.sequences.items[found.asked.places][:, None]).any(1).mean()),
        "cpu_seconds_rows": round(made - started, 1),
        "cpu_seconds_training": round(time.process_time() - made, 1),
        "validation": ranker.metrics,
    }
    shutil.rmtree(folder, ignore_errors=True)
    ranker.save(folder)
    costs.write_text(json.dumps(cost))
    print(cost, flush=True)
    return ranker, cost


def packed(
    model: Checkpoint, ranker: RankerCheckpoint, dataset: Dataset, folder: Path, *, again: bool
) -> dict[str, Bundle]:
    """Both bundles, the ranker's features knowing what is older than the test part."""
    places = {"retrieval": folder / "retrieval.bundle", "retrieve-and-rank": folder / "ranked.bundle"}
    if again or not all(place.exists() for place in places.values()):
        known = known_events(dataset, labels_of(dataset, LABEL))
        pack(model, places["retrieval"])
        pack(model, places["retrieve-and-rank"], PackConfig(), RankerPart(ranker, known))
    return {name: open_bundle(place) for name, place in places.items()}


def replayed(bundle: Bundle, dataset: Dataset, asked: Targets) -> Replay:
    """The test part, event by event: all are observed, `asked` are asked for."""
    limits = HistoryLimits().covering(bundle.max_length)
    with StateStore.temporary(StoreSettings(limits=limits)) as store:
        return replay(Engine(bundle, store), dataset, TEST, only=asked)


def compared(seen: dict[str, Replay], dataset: Dataset, asked: Targets) -> dict[str, Any]:
    """NDCG@10 of each, and the paired difference; intervals and p-value draw users."""
    users = dataset.sequences.users[asked.places]
    values = {name: gains_of(replay.ranks) for name, replay in seen.items()}
    before, after = values["retrieval"], values["retrieve-and-rank"]
    figures = {
        name: {
            "ndcg@10": msgspec.to_builtins(confidence_interval(own, groups=users)),
            "hr@10": float((seen[name].ranks <= 10).mean()),
        }
        for name, own in values.items()
    }
    return {
        "protocol": dataset.protocol,
        "targets": len(users),
        "users": len(np.unique(users)),
        "figures": figures,
        "difference": paired_difference(after, before, groups=users)._asdict(),
        "relative": float(after.mean() / before.mean() - 1),
    }


if __name__ == "__main__":
    main()
