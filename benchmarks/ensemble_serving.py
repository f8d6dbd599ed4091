"""Several models in one bundle: what each further member adds to quality, and what it costs in time and memory.

    python -m benchmarks.ensemble_serving              some minutes; trains four small models at first
    python -m benchmarks.ensemble_serving --latency    only times and memory again, of the bundles that are there
    python -m benchmarks.ensemble_serving --fusion     only the ways to fuse members again
    python -m benchmarks.ensemble_serving --table      only the tables in docs/cascade.md

Quality: the test part of MovieLens-100k (leave-last-out, the whole catalogue ranked, seen items left out) replayed
through the engine that serves, on bundles of 1, 2 and 4 trained models whose weights were fitted on the validation
part, with paired tests against the single model that is best on the test part. Latency: the same engine, one question
at a time with a history of 100 events, members at once (`parallel`) and one after the other, taking turns; and the same
of larger, untrained models, where there is more to gain. Memory: what a second engine on the same bundle adds. The
figures go to benchmarks/results/ensemble-serving.json, those of the ways to fuse members to ensemble-fusion.json: ranks
of the same targets through the networks, which are those of the engine (a test holds them to each other), with paired
tests against the sum with fitted weights.
"""

import argparse
import gc
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from benchmarks.engines import difference, engine_of, gains_of, told
from benchmarks.machine import describe
from benchmarks.paste import ROOT, paste, table
from benchmarks.small_models import MODELS, checkpoint_of, dataset
from millirec.bundle import Bundle, open_bundle, pack, pack_ensemble
from millirec.cascade.query import Query
from millirec.data.dataset import TEST
from millirec.data.split import targets
from millirec.frontier.replay import replay
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import build
from millirec.models.sasrec import SASRecConfig
from millirec.train.ensemble import Ensemble, fitted_shares
from millirec.train.evaluate import rank_targets
from millirec.train.fusion import WAYS, Fused, Fusion, fit

FUSION = ROOT / "benchmarks" / "results" / "ensemble-fusion.json"
RESULT = ROOT / "benchmarks" / "results" / "ensemble-serving.json"
BUNDLES = ROOT / "runs" / "ensemble-serving"
SETS = (("sasrec",), ("gru4rec",), ("linear-recurrent",), ("hstu",), ("sasrec", "linear-recurrent"), tuple(MODELS))
LARGE = SASRecConfig(embedding_dim=128, blocks=3, heads=2, max_length=100)


def bundle_of(names: Sequence[str], checkpoints: Sequence[Checkpoint], shares: Sequence[float]) -> Bundle:
    """The bundle of these models."""
    folder = BUNDLES / "-".join(names)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if len(checkpoints) == 1:
        return pack(checkpoints[0], folder)
    return pack_ensemble(checkpoints, shares, folder)


def quality() -> list[dict[str, Any]]:
    """Every set of models replayed, with its difference to the best single one."""
    data = dataset()
    asked = targets(data, TEST)
    users = data.sequences.users[asked.places]
    rows, gains = [], {}
    for names in SETS:
        checkpoints = [checkpoint_of(name) for name in names]
        shares = fitted_shares(Ensemble(checkpoints), data) if len(names) > 1 else [1.0]
        engine = engine_of(bundle_of(names, checkpoints, shares))
        ranks = replay(engine, data, TEST).ranks
        engine.close()
        gain = gains[names] = gains_of(ranks)
        hit = float((ranks <= 10).mean())
        rows.append({"members": names, "weights": shares, "ndcg@10": float(gain.mean()), "hr@10": hit})
        print(names, shares, rows[-1], flush=True)
    best = max((names for names in SETS if len(names) == 1), key=lambda names: gains[names].mean())
    for row in rows:
        if len(row["members"]) > 1:
            row |= {"against": best[0]} | difference(gains[row["members"]], gains[best], users)
    return rows


def fusions() -> dict[str, Any]:
    """Every set of several models, fused in every way."""
    data, rows = dataset(), []
    asked = targets(data, TEST)
    for names in [names for names in SETS if len(names) > 1]:
        checkpoints = [checkpoint_of(name) for name in names]
        gains, own = {}, []
        for way in WAYS:
            began = time.perf_counter()
            fusion = fit(checkpoints, way, data)
            fitting = time.perf_counter() - began
            model = Fused(checkpoints, fusion)
            ranks = rank_targets(model, data, asked, model.max_length, lists=0).ranks
            gain = gains[way] = gains_of(ranks)
            row = {"members": names, "way": way, "fusion": weights_of(fusion), "fitting_seconds": round(fitting, 1)}
            row |= {"ndcg@10": float(gain.mean()), "hr@10": float((ranks <= 10).mean())}
            own.append(row)
            print(own[-1], flush=True)
        for row in own:
            if row["way"] != "fitted":
                users = data.sequences.users[asked.places]
                row |= difference(gains[row["way"]], gains["fitted"], users)
        rows += own
    return {"machine": describe(), "niceness": os.nice(0), "rows": rows}


def weights_of(fusion: Fusion) -> dict[str, Any]:
    """As plain JSON."""
    return {"shares": list(fusion.shares), "how": msgspec.to_builtins(fusion.how)}


def large(n: int) -> Bundle:
    """`n` untrained models: only their time is of interest."""
    base = checkpoint_of("sasrec")
    checkpoints = []
    for seed in range(n):
        torch.manual_seed(seed)
        network = build(LARGE, len(base.catalog))
        made = Checkpoint(LARGE, dict(network.state_dict()), base.catalog, base.popularity, base.provenance)
        checkpoints.append(made)
    return bundle_of([f"large-{n}"], checkpoints, [1.0] * n)


def latency(bundle: Bundle, seconds: float) -> dict[str, Any]:
    """p50 and p99 in microseconds, at once and one after the other, of questions that take turns between the two."""
    ids = bundle.catalog.vocabulary.ids
    query = Query(items=ids[:100])
    engines = {way: engine_of(bundle, parallel=way == "at once") for way in ("at once", "one after the other")}
    times: dict[str, list[float]] = {way: [] for way in engines}
    for engine in engines.values():
        for _ in range(20):
            engine.recommend(query)
    gc.disable()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for way, engine in engines.items():
            began = time.perf_counter()
            engine.recommend(query)
            times[way].append(1e6 * (time.perf_counter() - began))
    gc.enable()
    for engine in engines.values():
        engine.close()
    return {
        way: dict(zip(("p10", "p50", "p99"), np.percentile(own, [10, 50, 99]).round().tolist(), strict=True))
        for way, own in times.items()
    } | {"questions": len(times["at once"])}


def memory(bundle: Bundle) -> dict[str, float]:
    """MiB of anonymous memory that the first engine adds on top of the opened bundle, and that the second adds."""
    bundle = open_bundle(bundle.folder)
    sizes, engines = [_resident()], []
    for _ in range(2):
        engines.append(engine_of(bundle))
        engines[-1].recommend(Query(items=bundle.catalog.vocabulary.ids[:5]))
        gc.collect()
        sizes.append(_resident())
    for engine in engines:
        engine.close()
    tables = sum(array.nbytes for array in {id(array): array for array in bundle.tensors.values()}.values()) / 2**20
    return {"tables": round(tables, 1), "first": round(sizes[1] - sizes[0], 1), "second": round(sizes[2] - sizes[1], 1)}


def _resident() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def measure(seconds: float, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """The whole benchmark as one JSON object; what is `known` of quality is not measured again."""
    rows = quality() if known is None else known["trained"]
    for row in rows:
        row["microseconds"] = latency(open_bundle(BUNDLES / "-".join(row["members"])), seconds)
        print(row["members"], row["microseconds"], flush=True)
    larger = []
    for n in (1, 2, 4):
        larger.append({"members": n, "microseconds": latency(large(n), seconds)})
        print(larger[-1], flush=True)
    return {
        "machine": describe(),
        "niceness": os.nice(0),
        "data": "MovieLens-100k, leave-last-out, 943 targets, whole catalogue ranked, seen items left out",
        "history": 100,
        "trained": rows,
        "large": {"model": "sasrec, 3 blocks, width 128, untrained", "rows": larger},
        "memory_mib": memory(large(1)),
    }


def shown(result: dict[str, Any]) -> str:
    """The tables for docs/cascade.md."""
    rows = []
    for row in result["trained"]:
        names = " + ".join(row["members"])
        rows.append([names, f"{row['ndcg@10']:.4f}", f"{row['hr@10']:.4f}", told(row), *_times(row["microseconds"])])
    head = ["members", "NDCG@10", "HR@10", "NDCG@10 against the best single one", "at once, us", "in turn, us"]
    large_rows = [[str(row["members"]), *_times(row["microseconds"])] for row in result["large"]["rows"]]
    second = table([f"members ({result['large']['model']})", "at once, us", "in turn, us"], large_rows)
    return table(head, rows) + "\n\n" + second


def shown_fusion(result: dict[str, Any]) -> str:
    """The table for docs/cascade.md."""
    rows = []
    for row in result["rows"]:
        figures = [f"{row['ndcg@10']:.4f}", f"{row['hr@10']:.4f}", told(row)]
        rows.append([" + ".join(row["members"]), row["way"], *figures])
    return table(["members", "fused by", "NDCG@10", "HR@10", "NDCG@10 against fitted"], rows)


def _times(found: dict[str, Any]) -> list[str]:
    return [f"{found[way]['p50']:,.0f}" for way in ("at once", "one after the other")]


def main() -> None:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each latency")
    parser.add_argument("--nice", type=int, default=0, help="below 0: before other work on the machine (root only)")
    parser.add_argument("--latency", action="store_true", help="only times and memory again")
    parser.add_argument("--fusion", action="store_true", help="only the ways to fuse members again")
    parser.add_argument("--table", action="store_true", help="only write the table again")
    options = parser.parse_args()
    if not options.table:
        os.nice(options.nice)
        if not options.fusion:
            known = json.loads(RESULT.read_text(encoding="utf-8")) if options.latency else None
            RESULT.write_text(json.dumps(measure(options.seconds, known), indent=1) + "\n", encoding="utf-8")
        if not options.latency:
            FUSION.write_text(json.dumps(fusions(), indent=1) + "\n", encoding="utf-8")
    paste("cascade.md", "ensemble", shown(json.loads(RESULT.read_text(encoding="utf-8"))))
    paste("cascade.md", "fusion", shown_fusion(json.loads(FUSION.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
