"""Top-100 over an embedding of product codes: the index that is the table itself, against others over the same vectors.

    python benchmarks/compression/product_index.py [--small]     one core; writes compression-product-index.json

Item vectors are those of random 4-bit codes and random sub-vectors, as a network with a product table has them; queries
are random. `exact` is one matrix product over the decoded vectors, `pq` the compressed index for vectors of floats with
its usual settings. The indexes take turns, query by query, so that whatever else the machine does slows all of them;
`ratio` is the median, over queries, of the time of an index divided by that of the product index for the same query.
`recall` is measured against exact search over the same decoded vectors. `bytes_an_item` is what the arrays of an index
hold; `memory_an_item` counts the copy in the order of registers that scanning needs.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402

from benchmarks.machine import describe  # noqa: E402
from millirec import index  # noqa: E402
from millirec.index import ExactConfig, Index, PQConfig, ProductIndex, ProductIndexConfig  # noqa: E402
from millirec.index.product import decoded  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "compression-product-index.json"
SIZES = ((54_542, 64, 16), (54_542, 64, 8), (1_000_000, 128, 16))  # items, width, codes
K, QUERIES, ROUNDS = 100, 40, 3


def table(n_items: int, width: int, codes: int) -> tuple[np.ndarray, np.ndarray]:
    """Packed codes and sub-vectors."""
    rng = np.random.default_rng(0)
    packed = rng.integers(0, 256, (n_items + 1, codes // 2), dtype=np.uint8)
    return packed, rng.standard_normal((codes, 16, width // codes)).astype(np.float32)


def timed(indexes: dict[str, Index], queries: np.ndarray) -> dict[str, list[float]]:
    """Milliseconds of each query alone, the best of some rounds, the indexes taking turns."""
    best = {name: [np.inf] * len(queries) for name in indexes}
    for _ in range(ROUNDS + 1):  # the first one warms up and may be beaten
        for i in range(len(queries)):
            for name, found in indexes.items():
                began = time.perf_counter()
                found.search(queries[i : i + 1], K)
                best[name][i] = min(best[name][i], 1e3 * (time.perf_counter() - began))
    return best


def measured(n_items: int, width: int, codes: int) -> dict[str, Any]:
    """One size."""
    packed, centroids = table(n_items, width, codes)
    began = time.perf_counter()
    product = ProductIndex(packed, centroids)
    loaded = time.perf_counter() - began
    vectors = decoded(packed, centroids)
    indexes: dict[str, Index] = {
        "product": product,
        "exact": index.build(vectors, ExactConfig()),
        "pq": index.build(vectors, PQConfig()),
    }
    rng = np.random.default_rng(1)
    queries = rng.standard_normal((QUERIES, width)).astype(np.float32)
    times = timed(indexes, queries)
    answers = {name: found.search(queries, K).rows for name, found in indexes.items()}
    row: dict[str, Any] = {"items": n_items, "width": width, "codes": codes, "k": K, "load_seconds": round(loaded, 3)}
    for name, found in indexes.items():
        ratios = [a / b for a, b in zip(times[name], times["product"], strict=True)]
        shares = [np.isin(a, b).mean() for a, b in zip(answers["exact"], answers[name], strict=True)]
        row[name] = {
            "milliseconds": round(statistics.median(times[name]), 3),
            "ratio": round(statistics.median(ratios), 2),
            "recall": round(float(np.mean(shares)), 4),
            "bytes_an_item": round(sum(array.nbytes for array in found.arrays().values()) / n_items, 2),
        }
    row["product"]["memory_an_item"] = round(row["product"]["bytes_an_item"] + codes / 2, 2)
    row["product"]["memory_mb"] = round(row["product"]["memory_an_item"] * n_items / 1e6, 2)
    return row


def found_again(n_items: int = 1_000_000, width: int = 128, codes: int = 16) -> float:
    """Seconds to find the codes of so many decoded vectors again."""
    vectors = decoded(*table(n_items, width, codes))
    began = time.perf_counter()
    index.build(vectors, ProductIndexConfig(codes=codes))
    return round(time.perf_counter() - began, 1)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true", help="the first size only, and nothing is written")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = []
    for size in SIZES[:1] if arguments.small else SIZES:
        rows.append(measured(*size))
        print(json.dumps(rows[-1]), flush=True)
    if not arguments.small:
        figures = {"machine": describe(), "sizes": rows, "build_from_vectors_seconds": found_again()}
        RESULT.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
