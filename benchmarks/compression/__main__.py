"""Frontiers of real data sets, and whether a server under `millirec bench` does what they say.

    python -m benchmarks.compression ml1m          takes the checkpoints of benchmarks.quality; see ml1m.toml
    python -m benchmarks.compression --table       docs/compression-results.md from all results

Writes benchmarks/results/frontier-NAME.json: the figures of every variant; and for the teacher and the variants with
the most requests/s and the least bytes that keep 99 % of its NDCG@10, three rounds of `millirec bench` with the numbers
of the frontier, in turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.compression import table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
KEPT = 0.99


def main() -> None:
    """Run a frontier, load its servers again, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    configs = sorted(path.stem for path in Path(__file__).parent.glob("*.toml"))
    parser.add_argument("name", nargs="?", choices=configs, help="a frontier's TOML in benchmarks/compression")
    parser.add_argument("--table", action="store_true", help="only write the page")
    options = parser.parse_args()
    if options.name and not options.table:
        explore(options.name)
    table.write()


def explore(name: str) -> None:
    """One frontier."""
    began, fresh = time.monotonic(), not (ROOT / "runs" / "frontier" / name / "cache").exists()
    found = json.loads(millirec("frontier", "-c", f"benchmarks/compression/{name}.toml", "--json", fine=(0, 3)))
    result = {"seconds": round(time.monotonic() - began), "frontier_seconds": found["seconds"] if fresh else None}
    result |= {key: found[key] for key in ("created", "protocol", "measure", "limits", "gate", "host", "choice")}
    result["variants"] = [row(entry) for entry in found["variants"]]
    result["bench"] = benched(name, found, result["variants"])
    (RESULTS / f"frontier-{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def row(entry: dict[str, Any]) -> dict[str, Any]:
    """What a table tells of a variant."""
    figures, quality, speed = entry["figures"], entry["figures"]["quality"], entry["figures"]["speed"]
    out = {
        name: figures[name]
        for name in ("name", "content_hash", "bundle_bytes", "training_seconds", "compression_seconds")
    }
    out |= {
        "ndcg@10": quality["figures"]["ndcg@10"],
        "kept": quality["kept"],
        "p_value": quality["to_teacher"]["ndcg@10"]["p_value"],
    }
    for name in ("requests_per_second", "p50_ms", "p99_ms", "cpu_seconds", "memory_mb", "start_seconds"):
        out[name] = speed[name]
    stages = {name: times[0] for name, times in speed["stages"].items()}
    return out | {"stages_p50_us": stages, "noisy": speed["noisy"], "remarks": entry["remarks"]}


def benched(name: str, found: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Requests/s under `millirec bench` beside those of the frontier."""
    keeping = [one for one in rows if one["kept"]["value"] >= KEPT]
    fastest = max(keeping, key=lambda one: one["requests_per_second"]["median"])
    smallest = min(keeping, key=lambda one: one["bundle_bytes"])
    bundles = {one["content_hash"]: one for one in (rows[0], fastest, smallest)}
    folders = {
        path.parent for path in (ROOT / "runs" / "frontier" / name / "cache" / "bundles").glob("*/manifest.json")
    }
    places = {json.loads((folder / "manifest.json").read_text())["content_hash"]: folder for folder in folders}
    measured: dict[str, list[float]] = {key: [] for key in bundles}
    for _ in range(3):
        for key in bundles:
            measured[key].append(requests_per_second(places[key], found["measure"]))
    return [
        {
            "name": one["name"],
            "frontier": one["requests_per_second"]["median"],
            "bench": measured[key],
            "ratio": round(statistics.median(measured[key]) / one["requests_per_second"]["median"], 4),
        }
        for key, one in bundles.items()
    ]


def requests_per_second(bundle: Path, measure: dict[str, Any]) -> float:
    """As a user would measure it."""
    same = {
        "--known-users": "known_users",
        "--history": "history",
        "-c": "connections",
        "-k": "k",
        "--seconds": "seconds",
    }
    options = [part for option, name in same.items() for part in (option, str(measure[name]))]
    found = json.loads(millirec("bench", str(bundle), *options, "--json"))
    return float(found["requests_per_second"])


def millirec(*words: str, fine: tuple[int, ...] = (0,)) -> str:
    """The command, with its progress shown and its output returned."""
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    command, env = [sys.executable, "-m", "millirec", *words], os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode not in fine:
        sys.exit(done.returncode)
    return done.stdout


if __name__ == "__main__":
    main()
