"""What a state saves: reading a history anew against going on from a state by one event, one core.

    python benchmarks/step.py            a minute; benchmarks/results/step.json

Networks with random weights over 3,706 items, since speed does not depend on them. `read` is the encoder's graph over a
whole history, `step` the graph of one event, both in batches of 1 and 16, the two taking turns. `engine` is a whole
answer for a stored user, after each of whose events he asks, with and without states in memory.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.machine import describe  # noqa: E402
from millirec.bundle import Bundle, pack  # noqa: E402
from millirec.cascade.query import Query  # noqa: E402
from millirec.data.catalog import Catalog, Vocabulary  # noqa: E402
from millirec.data.event import Event  # noqa: E402
from millirec.data.lineage import Provenance  # noqa: E402
from millirec.engine.engine import Engine  # noqa: E402
from millirec.engine.runner import Runner  # noqa: E402
from millirec.engine.settings import EngineSettings  # noqa: E402
from millirec.engine.state import StateStore  # noqa: E402
from millirec.models.checkpoint import Checkpoint  # noqa: E402
from millirec.models.config import ModelConfig, build  # noqa: E402
from millirec.models.export import random_batch  # noqa: E402
from millirec.models.linear_recurrent import LinearRecurrentConfig  # noqa: E402
from millirec.models.sasrec import SASRecConfig  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "step.json"
N_ITEMS = 3_706
LENGTHS, BATCHES = (50, 200), (1, 16)
ROUNDS, CALLS = 9, 40


def bundle_of(config: ModelConfig, folder: Path) -> Bundle:
    """A bundle with random weights."""
    torch.manual_seed(0)
    network = build(config, N_ITEMS)
    catalog = Catalog(Vocabulary([f"i{row}" for row in range(1, N_ITEMS + 1)]), {})
    nobody = Provenance(fingerprint="none", protocol="none", n_events=0, trained_until=0)
    popularity = np.ones(N_ITEMS + 1, np.int64)
    return pack(Checkpoint(config, dict(network.state_dict()), catalog, popularity, nobody), folder)


def microseconds(call: Callable[[], object]) -> float:
    """The mean time of a call, over a short burst."""
    began = time.perf_counter()
    for _ in range(CALLS):
        call()
    return 1e6 * (time.perf_counter() - began) / CALLS


def graphs(bundles: dict[str, Bundle]) -> list[dict[str, Any]]:
    """Reading and stepping, an item of a batch each, in turns."""
    runners = {name: Runner(bundle.encoder, bundle.inputs, step=bundle.step) for name, bundle in bundles.items()}
    rows = []
    for size in BATCHES:
        for length in LENGTHS:
            batch = random_batch(N_ITEMS, size, length, seed=0)
            batch.lengths[:] = length
            calls = {f"{name}: read": lambda r=runner, b=batch: r.encode(b) for name, runner in runners.items()}
            for name, runner in runners.items():
                if runner.carries:
                    _, state = runner.read(batch)
                    event = batch.items[:, -1].copy(), batch.times[:, -1].copy(), batch.now
                    calls[f"{name}: step"] = lambda r=runner, s=state, e=event: r.step(s, *e)  # type: ignore[misc]
            times: dict[str, list[float]] = {name: [] for name in calls}
            for _ in range(ROUNDS + 1):
                for name, call in calls.items():
                    times[name].append(microseconds(call) / size)
            medians = {name: round(statistics.median(found[1:]), 1) for name, found in times.items()}  # 1st: warm-up
            rows.append({"batch": size, "length": length, "microseconds_an_item": medians})
            print(rows[-1], flush=True)
    return rows


def answers(bundle: Bundle, carry_mb: float, n_users: int = 50, length: int = 150, turns: int = 20) -> float:
    """Median microseconds of an answer to a user who has just done something."""
    rng = np.random.default_rng(0)
    ids = bundle.catalog.vocabulary.ids
    clock, took = 1_700_000_000_000, []
    with StateStore.temporary() as store:
        engine = Engine(bundle, store, EngineSettings(carry_mb=carry_mb))
        for user in range(n_users):
            events = [Event(user=f"u{user}", item=ids[i], time=clock) for i in rng.integers(0, N_ITEMS, length)]
            engine.submit(events).result()
        for turn in range(turns):
            clock += 60_000
            for user in range(n_users):
                engine.observe(Event(user=f"u{user}", item=ids[int(rng.integers(N_ITEMS))], time=clock))
                began = time.perf_counter()
                engine.recommend(Query(user=f"u{user}", time=clock + 1_000, k=10))
                if turn:
                    took.append(1e6 * (time.perf_counter() - began))
    return round(statistics.median(took), 1)


def main() -> None:
    """Measure, print, write."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        configs: dict[str, ModelConfig] = {
            "linear-recurrent": LinearRecurrentConfig(),
            "sasrec": SASRecConfig(feed_forward=1),
        }
        bundles = {name: bundle_of(config, Path(folder) / name) for name, config in configs.items()}
        linear = bundles["linear-recurrent"]
        figures = {
            "machine": describe(),
            "state_bytes": 4 * linear.manifest.state_size,
            "graphs": graphs(bundles),
            "engine_microseconds": {
                "linear-recurrent, states in memory": answers(linear, 64.0),
                "linear-recurrent, read anew": answers(linear, 0.0),
                "sasrec, read anew": answers(bundles["sasrec"], 0.0),
            },
        }
    print(figures["engine_microseconds"])
    RESULT.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
