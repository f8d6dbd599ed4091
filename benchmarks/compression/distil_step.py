"""What a step of distillation takes beside a step of plain training, on MovieLens-1M.

    python benchmarks/compression/distil_step.py --threads 1          about five minutes

The student is the linear recurrent model as in benchmarks/quality, trained with the full softmax; teachers are
HSTU-large and another linear recurrent model, unfitted: time does not depend on what they know. All ways take the same
batches in turns. CPU seconds are what counts on a machine that does other work. Results:
benchmarks/results/distil-step.json.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.machine import describe  # noqa: E402
from millirec.compress.lessons import Lessons, Lists, Panel, Vectors  # noqa: E402
from millirec.compress.taught import Taught  # noqa: E402
from millirec.data.dataset import TRAIN, Dataset  # noqa: E402
from millirec.data.sources import MovieLensConfig, read  # noqa: E402
from millirec.data.split import LeaveLastOut, split  # noqa: E402
from millirec.models.checkpoint import Checkpoint, Provenance  # noqa: E402
from millirec.models.config import ModelConfig, build  # noqa: E402
from millirec.models.hstu import HSTUConfig  # noqa: E402
from millirec.models.linear_recurrent import LinearRecurrentConfig  # noqa: E402
from millirec.train.losses.soft import Blend  # noqa: E402
from millirec.train.machine import Machine, generator  # noqa: E402
from millirec.train.objective import BatchLoss  # noqa: E402
from millirec.train.progress import Progress  # noqa: E402
from millirec.train.trainer import TrainConfig, Trainer  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "distil-step.json"
STUDENT, TEACHER = LinearRecurrentConfig(), HSTUConfig(embedding_dim=50, blocks=8)
TRAINING = TrainConfig(batch_size=32, learning_rate=2e-3, windows="all")
READ = 200  # users whose training events the teacher answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    data = Path(os.environ.get("MILLIREC_DATA", ROOT / ".." / "shared" / "data")).resolve() / "ml-1m"
    dataset = split(read(MovieLensConfig(path=str(data))), LeaveLastOut())
    result: dict[str, Any] = steps(dataset, options.threads, options.steps)
    result |= {"teacher": reading(dataset, options.threads), "machine": describe(), "threads": options.threads}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def steps(dataset: Dataset, threads: int, n_steps: int) -> dict[str, Any]:
    """Median CPU seconds of a step, and of a step by the time of a plain one on the same batch."""
    ways = {
        "plain": None,
        "one teacher": Taught(lessons(dataset, 1), Blend(0.9), "one", None),
        "two teachers": Taught(lessons(dataset, 2), Blend(0.9), "two", None),
        "one teacher, temperature 2": Taught(lessons(dataset, 1), Blend(0.9, 2.0), "warm", None),
        "any teachers, top 100": Taught(lists(dataset, 100), Blend(0.9), "lists", None),
    }
    trainers = {name: trainer(dataset, threads, way) for name, way in ways.items()}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    first = trainers["plain"]
    for number, spans in enumerate(first.sequences.plan(TRAINING.batch_size, generator(0, 1))[: n_steps + 1]):
        batch = first.sequences.batch(spans)
        for name, each in trainers.items():
            began = time.process_time()
            each._step([batch], number)
            spent[name].append(time.process_time() - began)
    plain = np.array(spent["plain"][1:])  # the first step warms up
    return {
        name: {
            "cpu_seconds": round(float(np.median(own[1:])), 3),
            "by_plain": round(float(np.median(np.array(own[1:]) / plain)), 2),
        }
        for name, own in spent.items()
    }


def trainer(dataset: Dataset, threads: int, objective: BatchLoss | None) -> Trainer:
    """Ready for its first step."""
    machine = Machine(threads=threads)
    machine.prepare()
    network = build(STUDENT, len(dataset.items))
    made = Trainer(network, dataset, STUDENT.max_length, TRAINING, machine, objective=objective)
    made.progress = Progress(key="")
    made.network.train()
    return made


def lessons(dataset: Dataset, teachers: int) -> Lessons:
    """Vectors at random, of the widths that the teachers have."""
    rng, n = np.random.default_rng(0), len(dataset.sequences.items)
    widths = [TEACHER.embedding_dim, STUDENT.embedding_dim][:teachers]
    vectors = [rng.standard_normal((n, width), np.float32).astype(np.float16) for width in widths]
    items = [torch.randn(len(dataset.items), width) for width in widths]
    return Vectors(vectors, items, [1 / teachers] * teachers)


def lists(dataset: Dataset, top: int) -> Lessons:
    """Items at random, with equal chances."""
    rng, n = np.random.default_rng(0), len(dataset.sequences.items)
    rows = rng.integers(0, len(dataset.items), (n, 1)) + np.arange(top)[None, :] * 7
    chances = np.full((n, top), 1 / top, np.float16)
    return Lists((rows % len(dataset.items) + 1).astype(np.int32), chances)


def reading(dataset: Dataset, threads: int) -> dict[str, Any]:
    """What it takes the slow teacher to answer to the training events of some users."""
    Machine(threads=threads).prepare()
    some = np.random.default_rng(0).permutation(len(dataset.users))[:READ] + 1
    roles = np.where(np.isin(dataset.interactions.users, some), dataset.roles, 3).astype(np.uint8)
    part = dataset.with_roles(roles, "some users")
    events = int((roles == TRAIN).sum())
    with TemporaryDirectory() as folder:
        began = time.process_time()
        Panel([checkpoint(TEACHER, part)], [1.0], 1.0).vectors(part, Path(folder), torch.device("cpu"))
        seconds = time.process_time() - began
    return {"events": events, "cpu_seconds": round(seconds, 1), "cpu_seconds_a_million": round(seconds / events * 1e6)}


def checkpoint(config: ModelConfig, dataset: Dataset) -> Checkpoint:
    """An unfitted network."""
    told = Provenance(fingerprint=dataset.fingerprint, protocol=dataset.protocol, n_events=0, trained_until=0)
    parameters = build(config, len(dataset.items)).state_dict()
    return Checkpoint(config, parameters, dataset.items, dataset.popularity, told)


if __name__ == "__main__":
    main()
