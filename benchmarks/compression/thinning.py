"""What thinning does to quality, and how long it takes.

    python benchmarks/compression/thinning.py               ten minutes of one core

MovieLens-100k as it is, and with planted noise (seeded): bots that walk through the catalogue at a steady pace, users
whose whole history stands again under other names with some items exchanged, and double clicks. On each a small SASRec
learns with and without [thin]; all are asked for the last event of each *real* user (leave-last-out, whole catalogue
ranked, seen items left out), the same targets everywhere; NDCG@10 is averaged over the seeds and compared in pairs of
users. Then ten million events are thinned, and the clock is read. Writes benchmarks/results/compression-thinning.json.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402
import numpy as np  # noqa: E402
import polars as pl  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks.machine import describe  # noqa: E402
from millirec.data.bots import Bots  # noqa: E402
from millirec.data.catalog import Catalog, Vocabulary  # noqa: E402
from millirec.data.dataset import TEST, TRAIN, Dataset, Interactions  # noqa: E402
from millirec.data.near import Duplicates  # noqa: E402
from millirec.data.sources import MovieLensConfig, assemble, read  # noqa: E402
from millirec.data.split import LeaveLastOut, split, targets  # noqa: E402
from millirec.data.thin import Repeats, ThinConfig, ThinReport, thin  # noqa: E402
from millirec.metrics.bootstrap import paired_difference  # noqa: E402
from millirec.metrics.summary import per_target  # noqa: E402
from millirec.models.sasrec import SASRecConfig  # noqa: E402
from millirec.train.evaluate import rank_checkpoint  # noqa: E402
from millirec.train.fit import fit  # noqa: E402
from millirec.train.journal import Silent  # noqa: E402
from millirec.train.machine import Machine, generator  # noqa: E402
from millirec.train.trainer import TrainConfig  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "compression-thinning.json"
MODEL = SASRecConfig(embedding_dim=48, blocks=1, heads=1, feed_forward=1, max_length=50)
TRAIN_CONFIG = TrainConfig(batch_size=64, learning_rate=4e-3, epochs=12, windows="all", patience=4)
THIN = ThinConfig(bots=Bots(), repeats=Repeats(within_seconds=10), duplicates=Duplicates(similarity=0.7))
BOTS, COPIED, COPIES, EXCHANGED, DOUBLED = 60, 80, 8, 0.03, 0.1
NOISE = {
    "bots": f"{BOTS} users with 500 to 1,500 events, the catalogue in order from a random place, every 4 to 30 seconds",
    "copies": f"{COPIED} real users, each {COPIES} times under other names, {EXCHANGED:.0%} of the items exchanged",
    "double clicks": f"{DOUBLED:.0%} of the real events before a user's last three stand again within 3 seconds",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="*", type=int, default=[42, 43, 44])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    folder = Path(os.environ.get("MILLIREC_DATA", ROOT / ".." / "shared" / "data")).resolve()
    clean = read(MovieLensConfig(path=str(folder / "ml-100k")))
    logs = {"as it is": clean, "with planted noise": planted(clean, generator(0))}
    real = clean.users.vocabulary.ids
    quality, values = {}, {}
    for name, log in logs.items():
        dataset = split(log, LeaveLastOut())
        thinned, report = thin(dataset, THIN)
        for label, own in ((name, dataset), (f"{name}, thinned", thinned)):
            values[label], quality[label] = measured(
                own, real, [Machine(seed=s, threads=options.threads) for s in options.seeds]
            )
            print(label, quality[label], flush=True)
        quality[f"{name}, thinned"] |= {"left_out": told(report), "users_gone": gone(dataset, thinned)}
    pairs = [("with planted noise, thinned", "with planted noise"), ("as it is, thinned", "as it is")]
    pairs += [("with planted noise", "as it is"), ("with planted noise, thinned", "as it is")]
    result = {
        "data": "MovieLens-100k",
        "protocol": "leave-last-out, stable sort by time, whole catalogue ranked, seen items left out, real users",
        "noise": NOISE,
        "thin": msgspec.to_builtins(THIN),
        "model": msgspec.to_builtins(MODEL),
        "train": msgspec.to_builtins(TRAIN_CONFIG),
        "seeds": options.seeds,
        "ndcg@10": quality,
        "differences": [difference(values, *pair) for pair in pairs],
        "ten_million_events": large(),
        "machine": describe(),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["differences"], indent=1), result["ten_million_events"])


def planted(clean: Dataset, rng: np.random.Generator) -> Dataset:
    """The same log with noise; its users' last three events are their own."""
    seq = clean.sequences
    names = np.array(["", *clean.users.vocabulary.ids])
    parts = [(names[seq.users], seq.items, seq.times)]
    third = seq.times[np.maximum(seq.offsets[1:] - 3, 0)]  # of each user row; rows have three events and more
    early = np.flatnonzero(seq.times + 3000 < third[seq.users])
    twice = early[rng.random(len(early)) < DOUBLED]
    parts.append((names[seq.users[twice]], seq.items[twice], seq.times[twice] + rng.integers(0, 3000, len(twice))))
    n = len(clean.items)
    for bot in range(BOTS):
        length = int(rng.integers(500, 1500))
        times = seq.times[rng.integers(len(seq.times))] + np.arange(length) * int(rng.integers(4, 31)) * 1000
        parts.append((np.full(length, f"bot-{bot}"), (rng.integers(n) + np.arange(length)) % n + 1, times))
    for row in rng.choice(np.arange(1, len(names)), COPIED, replace=False):
        own = slice(seq.offsets[row], seq.offsets[row + 1])
        for copy in range(COPIES):
            items = seq.items[own].copy()
            places = rng.random(len(items)) < EXCHANGED
            items[places] = rng.integers(1, n + 1, int(places.sum()))
            name = np.full(len(items), f"{names[row]}-copy-{copy}")
            parts.append((name, items, seq.times[own] + int(rng.integers(10**8))))
    users, items, times = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    ids = np.array(["", *clean.items.vocabulary.ids])[items]
    frame = pl.DataFrame({"user": users, "item": ids, "time": times})
    return assemble.dataset(frame.sort("time", maintain_order=True), name="planted")


def measured(
    dataset: Dataset, real: tuple[str, ...], machines: list[Machine]
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """NDCG@10 of each real user, the mean over the seeds; and figures of each seed."""
    asked = targets(dataset, TEST)
    users = [dataset.users.vocabulary.id(int(row)) for row in dataset.sequences.users[asked.places]]
    place = {user: at for at, user in enumerate(users)}
    which = np.array([place[user] for user in real if user in place])
    found, seconds = [], 0.0
    for machine in machines:
        checkpoint = fit(dataset, MODEL, TRAIN_CONFIG, machine, Silent())
        ranks = rank_checkpoint(checkpoint, dataset, asked, repeats=False).ranks[which]
        found.append(per_target(ranks, (10,))["ndcg@10"])
        seconds += checkpoint.lineage[-1].seconds
    return np.mean(found, 0), {
        "training_events": int((dataset.roles == TRAIN).sum()),
        "targets": len(which),
        "mean": round(float(np.mean(found)), 4),
        "each_seed": [round(float(own.mean()), 4) for own in found],
        "training_wall_seconds_each": round(seconds / len(machines), 1),
    }


def told(report: ThinReport) -> list[dict[str, Any]]:
    """What was left out, for the file."""
    return [{"reason": out.reason, "users": out.users, "events": out.events} for out in report.left_out]


def gone(dataset: Dataset, thinned: Dataset) -> dict[str, int]:
    """How many users of each kind train no more."""
    before, after = (set(own.interactions.users[own.roles == TRAIN].tolist()) for own in (dataset, thinned))
    names = [dataset.users.vocabulary.id(row) for row in before - after]
    bots, copies = sum(name.startswith("bot-") for name in names), sum("-copy-" in name for name in names)
    return {"bots": bots, "copies": copies, "real": len(names) - bots - copies}


def difference(values: dict[str, NDArray[np.float64]], a: str, b: str) -> dict[str, Any]:
    """`a` minus `b` over the same users."""
    mean, low, high, p = paired_difference(values[a], values[b], n=10_000)
    return {
        "a": a,
        "b": b,
        "difference": round(mean, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "p": round(p, 4),
    }


def large() -> dict[str, Any]:
    """Seconds to thin ten million events of 100,000 users, a tenth of them copies."""
    rng = generator(1)
    lengths = rng.integers(20, 181, 90_000)
    items = rng.zipf(1.2, int(lengths.sum())) % 50_000 + 1
    starts = np.cumsum(lengths) - lengths
    again = rng.choice(90_000, 10_000, replace=False)
    places = np.repeat(starts[again], lengths[again]) + np.concatenate([np.arange(n) for n in lengths[again]])
    lengths, items = np.concatenate([lengths, lengths[again]]), np.concatenate([items, items[places]])
    users = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    times = rng.integers(1, 10**6, len(items)).cumsum()
    log = Interactions(users.astype(np.int32), items.astype(np.int32), times.astype(np.int64))
    catalogs = (Catalog(Vocabulary([str(i) for i in range(int(rows.max()))])) for rows in (log.items, log.users))
    dataset = Dataset.of(log, next(catalogs), next(catalogs))
    _ = dataset.sequences  # every run sorts it anyway
    since = time.perf_counter(), time.process_time()
    _, report = thin(dataset, THIN)
    return {
        "events": len(log),
        "users": len(lengths),
        "seconds": round(time.perf_counter() - since[0], 1),
        "cpu_seconds": round(time.process_time() - since[1], 1),
        "left_out": told(report),
    }


if __name__ == "__main__":
    main()
