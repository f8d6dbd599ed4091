"""Bytes per event, load time and memory of training logs: csv, csv.gz, parquet (zstd) and compact columns.

    python benchmarks/compression/data.py                   MovieLens-1M, Yoochoose 1/64, S3-Rec Beauty: minutes

csv and parquet hold user, item, time and value of each event, ids and values as whole numbers where they are, times in
seconds; compact holds ids, features, and the test part that came with the log, as well. All give the same data set but
for features and roles. Loading is from the page cache to a `Dataset`, in turn, one thread for Polars. Memory is what
the highest resident size of a fresh process grows by while it loads. Writes benchmarks/results/compression-data.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ["POLARS_MAX_THREADS"] = "1"

import msgspec  # noqa: E402

from benchmarks.machine import describe  # noqa: E402
from millirec.data.compact import save_compact  # noqa: E402
from millirec.data.compact.formats import written  # noqa: E402
from millirec.data.sources import (  # noqa: E402
    CompactConfig,
    MovieLensConfig,
    SequenceFileConfig,
    SessionConfig,
    SourceConfig,
    read,
)

RESULT = ROOT / "benchmarks" / "results" / "compression-data.json"
SETS: dict[str, SourceConfig] = {
    "MovieLens-1M": MovieLensConfig(path="ml-1m"),
    "Yoochoose 1/64": SessionConfig(path="session-yoochoose1_64"),
    "S3-Rec Beauty": SequenceFileConfig(path="s3rec-beauty/Beauty.txt.gz"),
}
SIZES = ("symbols", "rests", "size")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--grow", help=argparse.SUPPRESS)  # a source: print by how much memory grows while it loads
    options = parser.parse_args()
    if options.grow:
        print(grown(msgspec.json.decode(options.grow, type=SourceConfig)))
        return
    folder = Path(os.environ.get("MILLIREC_DATA", ROOT / ".." / "shared" / "data")).resolve()
    result: dict[str, Any] = {"rounds": options.rounds, "sets": {}, "machine": describe()}
    for name, source in SETS.items():
        here = msgspec.structs.replace(source, path=str(folder / source.path))  # type: ignore[union-attr]
        result["sets"][name] = measure(here, options.rounds)
        print(name, json.dumps(result["sets"][name], indent=1), flush=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def measure(source: SourceConfig, rounds: int) -> dict[str, Any]:
    """All formats of one log."""
    dataset = read(source)
    with tempfile.TemporaryDirectory(prefix="millirec-") as place:
        since = time.process_time()
        head = save_compact(dataset, Path(place) / "compact")
        seconds = time.process_time() - since
        sources = {"as published": source} | written(dataset, Path(place))
        sources |= {"compact": CompactConfig(path=str(Path(place) / "compact"))}
        timed = load(sources, rounds)
        n = len(dataset.interactions)
        formats = {}
        for name, own in sources.items():
            formats[name] = sizes(own, n) | timed[name] | {"grown_mb": round(statistics.median(peaks(own)) / 2**10, 1)}
            formats[name]["same_log"] = read(own).fingerprint == dataset.fingerprint
    columns = msgspec.to_builtins(head.events)
    return {
        "events": n,
        "users": len(dataset.users),
        "items": len(dataset.items),
        "formats": formats,
        "compact_bits_per_event": {
            name: round(8 * summed(column) / n, 3) for name, column in columns.items() if name != "count"
        },
        "compress_cpu_seconds": round(seconds, 2),
    }


def load(sources: dict[str, SourceConfig], rounds: int) -> dict[str, Any]:
    """Median, least and most seconds to load each, in turn; CPU seconds too, since other work may be going on."""
    wall: dict[str, list[float]] = {name: [] for name in sources}
    cpu: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(rounds):
        for name, source in sources.items():
            since = time.perf_counter(), time.process_time()
            read(source)
            wall[name].append(time.perf_counter() - since[0])
            cpu[name].append(time.process_time() - since[1])
    return {
        name: {
            "load_seconds": round(statistics.median(own), 4),
            "load_seconds_range": [round(min(own), 4), round(max(own), 4)],
            "load_cpu_seconds": round(statistics.median(cpu[name]), 4),
        }
        for name, own in wall.items()
    }


def sizes(source: SourceConfig, n: int) -> dict[str, Any]:
    """Bytes on disk; nothing for a folder of other people's files."""
    path = Path(source.path)  # type: ignore[union-attr]
    if path.is_dir() and not isinstance(source, CompactConfig):
        return {}
    size = sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size
    found: dict[str, Any] = {"bytes": size, "bytes_per_event": round(size / n, 4)}
    if path.is_dir():
        found["events_alone_per_event"] = round((path / "events.bin").stat().st_size / n, 4)
    return found


def peaks(source: SourceConfig) -> list[int]:
    """KiB by which a fresh process grows, three times."""
    command = [sys.executable, __file__, "--grow", msgspec.json.encode(source).decode()]
    return [int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(3)]


def grown(source: SourceConfig) -> int:
    """KiB by which the highest resident size grows while a source loads."""
    before = status("VmRSS")
    kept = read(source)
    assert len(kept.interactions)
    return status("VmHWM") - before


def status(name: str) -> int:
    """KiB, as Linux tells them of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def summed(column: Any) -> int:
    """Bytes of all parts of a column, as its description tells them."""
    if isinstance(column, dict):
        return sum(value if name in SIZES else summed(value) for name, value in column.items())
    if isinstance(column, list):  # Ints: count, form, first, least, step, symbols, rests
        return column[-2] + column[-1] if len(column) == 7 else 0
    return 0


if __name__ == "__main__":
    main()
