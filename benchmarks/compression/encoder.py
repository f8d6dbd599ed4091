"""How long an encoder takes: a teacher that reads the whole history, against students that carry a state.

    python -m benchmarks.compression.encoder TEACHER STUDENT [STUDENT ...]     bundles; one core

For each number of stored events, batches of 16 questions are encoded as the engine does it when it knows the users: a
model without a state reads the whole history, one with a state takes one step from it. The bundles take turns, batch by
batch; `ratio` is the median, over batches, of the teacher's time divided by the student's for the same users. Writes
benchmarks/results/compression-encoder.json.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from benchmarks.machine import describe
from millirec.bundle import Bundle, open_bundle
from millirec.data.encode import Batch
from millirec.engine.runner import Runner

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "compression-encoder.json"
LENGTHS, SIZE, ROUNDS, WARM = (50, 110, 200), 16, 60, 10


def batch(bundle: Bundle, length: int, seed: int) -> Batch:
    """Histories of random items, drawn by popularity."""
    rng = np.random.default_rng(seed)
    chances = (bundle.popularity[1:] + 1) / (bundle.popularity[1:] + 1).sum()
    items = (rng.choice(len(chances), (SIZE, length), p=chances) + 1).astype(np.int32)
    times = np.cumsum(rng.integers(1_000, 3_600_000, (SIZE, length)), axis=1) + 1_700_000_000_000
    return Batch(items, np.full(SIZE, length, np.int32), times, times[:, -1] + 60_000)


def encoding(bundle: Bundle) -> Callable[[Batch], Callable[[], object]]:
    """From a batch to the work of encoding it, what is known beforehand made before."""
    runner = Runner(bundle.encoder, bundle.inputs, 1, bundle.step)

    def prepared(asked: Batch) -> Callable[[], object]:
        if not runner.carries:
            return lambda: runner.encode(asked)
        states = runner.read(asked)[1]
        return lambda: runner.step(states, asked.items[:, -1], asked.times[:, -1], asked.now)

    return prepared


def timed(
    works: dict[str, Callable[[Batch], Callable[[], object]]], bundle: Bundle, length: int
) -> dict[str, list[float]]:
    """Microseconds of each batch, the bundles taking turns."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(WARM + ROUNDS):
        asked = batch(bundle, length, number)
        for name, prepare in works.items():
            work = prepare(asked)
            began = time.perf_counter()
            work()
            if number >= WARM:
                found[name].append(1e6 * (time.perf_counter() - began))
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path, help="the teacher's first")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    opened = {path.name: open_bundle(path) for path in options.bundles}
    works = {name: encoding(bundle) for name, bundle in opened.items()}
    first = next(iter(opened))
    rows: list[dict[str, Any]] = []
    for length in LENGTHS:
        times = timed(works, opened[first], length)
        for name, own in times.items():
            ratios = [a / b for a, b in zip(times[first], own, strict=True)]
            rows.append(
                {
                    "bundle": name,
                    "events": length,
                    "microseconds_a_question": round(statistics.median(own) / SIZE, 2),
                    "ratio": round(statistics.median(ratios), 1),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    RESULT.write_text(
        json.dumps({"batch": SIZE, "machine": describe(), "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
