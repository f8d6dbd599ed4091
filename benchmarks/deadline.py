"""Deadlines over HTTP with a model that is far too slow: are they kept, and what do the answers lose?

    python -m benchmarks.deadline              some minutes, after benchmarks.ensemble_serving has trained the models
    python -m benchmarks.deadline --floor      only what a call without any model takes now, beside the other figures
    python -m benchmarks.deadline --table      only the table in docs/cascade.md

A bundle of two trained models of MovieLens-100k. To the graph of one of them useless matrix products are added that
change no number of its output, so many that one question takes some `--slow` milliseconds of a core; the graph is a
real one, run by the real runtime. Under each deadline: the test part replayed through the engine (what quality is left,
and where the answers come from), and a load of `--rate` questions a second with a history of 50 events over HTTP, with
Poisson arrivals (latency as the client sees it, from the scheduled time). The figures go to
benchmarks/results/deadline.json.
"""

import argparse
import json
import os
import re
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.engines import difference, engine_of, gains_of
from benchmarks.machine import describe
from benchmarks.paste import ROOT, paste, table
from benchmarks.small_models import checkpoint_of, dataset
from millirec.bundle import Bundle, open_bundle, pack_ensemble
from millirec.bundle.packing import write
from millirec.cascade.query import Query
from millirec.data.dataset import TEST
from millirec.data.split import targets
from millirec.engine.engine import Engine
from millirec.frontier.launch import cores_apart, server
from millirec.frontier.load import LoadSettings, load
from millirec.frontier.processes import ProcessTree
from millirec.frontier.replay import replay
from millirec.train.ensemble import Ensemble, fitted_shares

RESULT = ROOT / "benchmarks" / "results" / "deadline.json"
FOLDER = ROOT / "runs" / "deadline"
QUICK, SLOW = "linear-recurrent", "sasrec"
SIZE, HISTORY = 128, 50
TOLERANCE_MS = 2.0


def slowed(content: bytes, products: int) -> bytes:
    """The encoder with `products` matrix products more, the sum of which is multiplied by 0 and added to its output."""
    model = onnx.load_from_string(content)
    graph = model.graph
    inner = "user_vectors_before"
    for node in graph.node:
        node.output[:] = [inner if name == "user_vectors" else name for name in node.output]
        node.input[:] = [inner if name == "user_vectors" else name for name in node.input]
    # Orthogonal: however many products, nothing overflows and nothing becomes denormal.
    square = np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))[0].astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(square, "idle/square"))
    graph.initializer.append(numpy_helper.from_array(np.float32(0), "idle/zero"))
    axes = numpy_helper.from_array(np.array([0, 1], np.int64), "idle/axes")
    graph.initializer.append(axes)
    nodes = [  # it depends on the input, so that nothing can be folded into a constant
        helper.make_node("ReduceSum", [inner, "idle/axes"], ["idle/sum"], keepdims=0),
        helper.make_node("Add", ["idle/square", "idle/sum"], ["idle/0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"idle/{at}", "idle/square"], [f"idle/{at + 1}"]) for at in range(products)]
    nodes += [
        helper.make_node("ReduceSum", [f"idle/{products}", "idle/axes"], ["idle/end"], keepdims=0),
        helper.make_node("Mul", ["idle/end", "idle/zero"], ["idle/nothing"]),
        helper.make_node("Add", [inner, "idle/nothing"], ["user_vectors"]),
    ]
    graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def packed(milliseconds: float) -> Bundle:
    """The bundle of both models, the second so slow."""
    checkpoints = [checkpoint_of(QUICK), checkpoint_of(SLOW)]
    shares = fitted_shares(Ensemble(checkpoints), dataset())
    with tempfile.TemporaryDirectory() as folder:
        plain = pack_ensemble(checkpoints, shares, Path(folder) / "b")
        products = 64
        for _ in range(3):
            bundle = _with_products(plain, products)
            took = _cost(bundle)
            products = max(round(products * milliseconds / took), 1)
        return _with_products(plain, products)


def _with_products(plain: Bundle, products: int) -> Bundle:
    slow = np.frombuffer(slowed(bytes(plain.tensors["1/encoder"]), products), np.uint8)
    told = {
        name: getattr(plain.manifest, name)
        for name in plain.manifest.__struct_fields__
        if name not in ("files", "content_hash", "seal")
    }
    return write(FOLDER / "bundle", dict(plain.tensors) | {"1/encoder": slow}, plain.catalog, told)


def _cost(bundle: Bundle) -> float:
    """Milliseconds of a core that a question takes, the least of several; other work does not count."""
    engine, query = engine_of(bundle), Query(items=bundle.catalog.vocabulary.ids[:HISTORY])
    times = []
    for _ in range(20):
        began = time.process_time()
        engine.recommend(query)
        times.append(time.process_time() - began)
    engine.close()
    return 1e3 * min(times)


class Hurried:
    """An engine whose questions all have the same deadline; it counts where the answers come from."""

    def __init__(self, engine: Engine, deadline_ms: float | None) -> None:
        self._engine, self._deadline = engine, deadline_ms
        self.store, self.bundle, self.observe = engine.store, engine.bundle, engine.observe
        self.reads_log = engine.reads_log
        self.came_from: Counter[str] = Counter()

    def recommend(self, query: Query) -> Any:
        """As the engine's."""
        answer = self._engine.recommend(msgspec.structs.replace(query, deadline_ms=self._deadline))
        self.came_from[source(answer.members or ())] += 1
        return answer


def source(members: tuple[str, ...]) -> str:
    """Where an answer came from, in words."""
    return " + ".join(members) or "popular"


def quality(bundle: Bundle, deadline_ms: float | None) -> tuple[np.ndarray, dict[str, float]]:
    """NDCG@10 of each target, and the shares of the stages that the answers came from."""
    engine = Hurried(engine_of(bundle), deadline_ms)
    ranks = replay(engine, dataset(), TEST).ranks  # type: ignore[arg-type]
    engine._engine.close()
    total = sum(engine.came_from.values())
    shares = {name: round(count / total, 4) for name, count in engine.came_from.most_common()}
    return gains_of(ranks), shares


def requests(bundle: Bundle, host: str, deadline_ms: float | None, path: str) -> list[bytes]:
    """HTTP requests with histories drawn by popularity."""
    rng, ids = np.random.default_rng(0), bundle.catalog.vocabulary.ids
    weights = bundle.popularity[1:] / bundle.popularity[1:].sum()
    out = []
    for _ in range(500):
        items = [ids[at] for at in rng.choice(len(ids), HISTORY, p=weights)]
        body = json.dumps({"items": items} | ({} if deadline_ms is None else {"deadline_ms": deadline_ms})).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        out.append(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
    return out


def over_http(
    bundle: Bundle, deadline_ms: float | None, rate: float, seconds: float, path: str = "/recommend"
) -> dict[str, Any]:
    """What the client sees, and where the server says that its answers came from."""
    with cores_apart() as (cores, _), server(bundle.folder, 1, cores) as running:
        where = urlsplit(running.url)
        host, port = where.hostname or "", where.port or 80
        settings = LoadSettings(rate=rate, seconds=seconds, warm_up=3.0, arrivals="poisson", connections=16)
        report = load(
            host, port, requests(bundle, where.netloc, deadline_ms, path), settings, ProcessTree.known(running.pid)
        )
        time.sleep(1.2)
        with urllib.request.urlopen(f"{running.url}/metrics") as answer:
            text = answer.read().decode()
    counts = {
        name: float(value)
        for name, value in re.findall(r'^millirec_deadline_answers_total\{stage="(\S+)"\} (\S+)$', text, re.M)
    }
    reasons = re.findall(r'^millirec_left_out_total\{member="(\S+)",reason="late"\} (\S+)$', text, re.M)
    late = sum(float(value) for name, value in reasons if name == SLOW)
    total = sum(counts.values())
    return msgspec.to_builtins(report) | {
        "stages": {name: round(count / total, 4) for name, count in counts.items()} if total else {},
        "left_out": round(late / total, 4) if total else 0.0,
    }


def measure(slow: float, rate: float, seconds: float, deadlines: list[float]) -> dict[str, Any]:
    """The whole benchmark as one JSON object."""
    bundle = packed(slow)
    cost, users = _cost(bundle), dataset().sequences.users[targets(dataset(), TEST).places]
    print(f"a question takes {cost:.1f} ms of a core", flush=True)
    usual, _ = quality(bundle, None)
    rows = []
    for deadline in (None, *deadlines):
        gains, shares = quality(bundle, deadline)
        row: dict[str, Any] = {"deadline_ms": deadline, "ndcg@10": float(gains.mean()), "came_from": shares}
        row |= difference(gains, usual, users)
        if deadline is not None:
            row["http"] = over_http(bundle, deadline, rate, seconds)
            row["kept"] = row["http"]["latency_ms"]["p99"] <= deadline + TOLERANCE_MS and not row["http"]["errors"]
        rows.append(row)
        print(json.dumps({name: value for name, value in row.items() if name != "http"}), flush=True)
        print(row.get("http", {}).get("latency_ms"), row.get("http", {}).get("verdict"), flush=True)
    return {
        "machine": describe(),
        "quick": QUICK,
        "slow": SLOW,
        "slow_ms": round(cost, 1),
        "rate": rate,
        "seconds": seconds,
        "history": HISTORY,
        "floor": over_http(bundle, None, rate, seconds, "/noop"),
        "rows": rows,
    }


def shown(result: dict[str, Any]) -> str:
    """The table for docs/cascade.md."""
    rows = []
    for row in result["rows"]:
        came = ", ".join(f"{name} {share:.1%}" for name, share in row["came_from"].items())
        deadline = "none" if row["deadline_ms"] is None else f"{row['deadline_ms']:g} ms"
        http = row.get("http")
        seen = ["", "", ""]
        if http is not None:
            latency = http["latency_ms"]
            seen = [f"{latency[name]:.1f} ms" for name in ("p50", "p99", "max")]
        rows.append([deadline, f"{row['ndcg@10']:.4f}", came, *seen])
    floor = result["floor"]["latency_ms"]
    rows.append(["no model at all", "", "", *(f"{floor[name]:.1f} ms" for name in ("p50", "p99", "max"))])
    head = ["deadline", "NDCG@10", "answers of the replay come from", "HTTP p50", "p99", "max"]
    return table(head, rows)


def main() -> None:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slow", type=float, default=20.0, help="milliseconds of the slow model")
    parser.add_argument("--rate", type=float, default=50.0, help="questions a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--deadlines", type=float, nargs="+", default=[100.0, 50.0, 10.0, 5.0, 0.1])
    parser.add_argument("--nice", type=int, default=0, help="below 0: before other work on the machine (root only)")
    parser.add_argument("--floor", action="store_true", help="only what a call without any model takes")
    parser.add_argument("--table", action="store_true", help="only write the table again")
    options = parser.parse_args()
    niceness = os.nice(options.nice)
    if options.floor:
        found = json.loads(RESULT.read_text(encoding="utf-8"))
        bundle = open_bundle(FOLDER / "bundle")
        found["floor"] = over_http(bundle, None, found["rate"], found["seconds"], "/noop")
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    elif not options.table:
        found = {"niceness": niceness} | measure(options.slow, options.rate, options.seconds, options.deadlines)
        RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    paste("cascade.md", "deadline", shown(json.loads(RESULT.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
