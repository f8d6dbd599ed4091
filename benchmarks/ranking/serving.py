"""How long a second stage takes: 200 candidates, the 40 features of two_stage.toml, a network of 256-128-64, one core.

    python -m benchmarks.ranking.serving [--questions 3000]

MovieLens-1M under global time. Both models have random parameters: time does not depend on them. The features know all
events before the test part, which are about 820,000, and go on with an event between two questions. The clock is set:
each event of the test part comes when it comes, but 20 ms after the question before, and a question 20 ms after it.
Times are those of the trace of an engine in one process: `features` from the candidates to the arrays, `ranker` the
network. `event` is what an event costs beside: counting it, which a server does when nobody waits or before the next
question. `load` is the machine's load average: with other work on its cores p50 and p99 tell of that, and p5 of the
code. Leaves benchmarks/results/ranking-serving.json.
"""

import argparse
import json
import os
import tempfile
import tomllib
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe
from benchmarks.ranking.runs import PROTOCOLS, ROOT, data_of
from millirec.bundle import Bundle, PackConfig, RankerPart, pack
from millirec.cascade.query import Query
from millirec.config import convert
from millirec.data.dataset import TEST, TRAIN, Dataset
from millirec.data.event import Event
from millirec.data.features import Featuriser, FieldConfig, Keys, Needs, Questions, known_events, replayed
from millirec.data.labels import LabelConfig, labels_of
from millirec.data.sources import SourceConfig, read
from millirec.data.split import SplitConfig, split
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore, StoreSettings
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import build
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.models.rankers.config import build_ranker
from millirec.models.rankers.dnn import DNNConfig
from millirec.models.sasrec import SASRecConfig
from millirec.train.fit import provenance_of

SPEC = tomllib.loads(Path(__file__).with_name("two_stage.toml").read_text())
RESULT = ROOT / "benchmarks" / "results" / "ranking-serving.json"
RANKER = DNNConfig(embedding_dim=16, hidden=(256, 128, 64))
STORE = StoreSettings(sync=False)
WARM = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=3000)
    n = parser.parse_args().questions
    torch.manual_seed(0)
    torch.set_num_threads(1)
    dataset = split(read(convert(data_of("global-time"), SourceConfig, "data")), _split())
    label: LabelConfig = convert(SPEC["label"], LabelConfig, "label")
    model, ranker = models(dataset, label)
    known = known_events(dataset, labels_of(dataset, label))
    result: dict[str, Any] = {"candidates": 200, "features": len(ranker.featuriser.fields), "ranker": "dnn 256-128-64"}
    with tempfile.TemporaryDirectory() as folder:
        for weights in ("fp32", "int8"):
            part = RankerPart(ranker, known, weights)  # type: ignore[arg-type]
            bundle = pack(model, Path(folder) / weights, PackConfig(), part)
            result[weights] = measured(bundle, dataset, n) | {"bundle_bytes": bundle.bytes}
            print(weights, result[weights], flush=True)
    RESULT.write_text(
        json.dumps(result | {"questions": n, "load": round(os.getloadavg()[0], 1), "machine": describe()}, indent=1)
        + "\n"
    )


def _split() -> SplitConfig:
    config: SplitConfig = convert(PROTOCOLS["global-time"], SplitConfig, "split")
    return config


def models(dataset: Dataset, label: LabelConfig) -> tuple[Checkpoint, RankerCheckpoint]:
    """A sequence model and a ranker of random parameters; features are learned from 20,000 rows."""
    config = SASRecConfig(max_length=50)
    network = build(config, len(dataset.items))
    provenance = provenance_of(dataset)
    model = Checkpoint(config, dict(network.state_dict()), dataset.items, dataset.popularity, provenance)
    fields: list[FieldConfig] = convert(SPEC["features"], list[FieldConfig], "features")
    rng, log = np.random.default_rng(0), dataset.interactions
    places = np.sort(rng.choice(np.flatnonzero(dataset.roles == TRAIN), 20_000, replace=False))
    context = {
        "retrieval_score": rng.normal(size=len(places)),
        "retrieval_rank": rng.integers(1, 201, len(places)) * 1.0,
    }
    asked = Questions(
        log.users[places].astype(np.int64), log.items[places].astype(np.int64), log.times[places], context
    )
    labels = labels_of(dataset, label)
    facts = replayed(known_events(dataset, labels), asked, Needs.of(fields), Keys(dataset.users, dataset.items))
    featuriser = Featuriser.fit(fields, facts, labels[places] == 1, dataset.users, dataset.items)
    ranker = build_ranker(RANKER, featuriser.schema())
    return model, RankerCheckpoint(RANKER, dict(ranker.state_dict()), featuriser, label, provenance)


class Clock:
    """A clock that is set, in milliseconds."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def measured(bundle: Bundle, dataset: Dataset, n: int) -> dict[str, Any]:
    """p5, p50 and p99 in microseconds over `n` questions, an event before each."""
    log, seen = dataset.interactions, []
    places = np.flatnonzero(dataset.roles == TEST)
    places = places[np.argsort(log.times[places], kind="stable")][: n + WARM]
    users, items = dataset.users.vocabulary, dataset.items.vocabulary
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, StateStore(Path(folder), STORE, clock=clock) as store:
        engine = Engine(bundle, store)
        for place in places.tolist():
            user = users.id(int(log.users[place]))
            answer = engine.recommend(Query(user=user, k=10))
            stages = {stage.name: stage for stage in answer.trace}
            assert stages["ranker"].n_in == 200
            clock.now = max(clock.now + 20, int(log.times[place]))
            value = float(log.values[place]) if log.values is not None else None
            engine.observe(Event(user=user, item=items.id(int(log.items[place])), time=clock.now, value=value))
            began = perf_counter()
            engine.follow()
            took = (perf_counter() - began) * 1e6
            seen.append([stages["features"].microseconds, stages["ranker"].microseconds, took])
            clock.now += 20
    micros = np.array(seen[WARM:])
    columns = {"features": micros[:, 0], "network": micros[:, 1], "total": micros[:, :2].sum(axis=1)}
    columns["event"] = micros[:, 2]
    return {
        name: {f"p{share}_us": round(float(np.percentile(own, share)), 1) for share in (5, 50, 99)}
        for name, own in columns.items()
    }


if __name__ == "__main__":
    main()
