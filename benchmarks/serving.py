"""How much of the server's own speed is left when every request is encoded in full; and latency at half load.

    python benchmarks/serving.py                         about two minutes on 2 cores, after benchmarks.quality
    python benchmarks/serving.py runs/NAME/bundle --rounds 7 --seconds 5

One server on one core, the load generator on another. Rounds of POST /noop (HTTP and JSON alone, the same request
body) and POST /recommend (a history of 50 items in each request, encoded in full) take turns, both saturated; the
ratio is the median over rounds. Then an open loop at half of the most that /recommend could do, with Poisson
arrivals. The figures go to benchmarks/results/serving.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import msgspec  # noqa: E402

from benchmarks.machine import describe  # noqa: E402
from millirec.bundle import Bundle, open_bundle  # noqa: E402
from millirec.frontier.launch import cores_apart, server  # noqa: E402
from millirec.frontier.load import LoadReport, LoadSettings, load  # noqa: E402
from millirec.frontier.processes import ProcessTree  # noqa: E402
from millirec.frontier.questions import Questions, requests  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "serving.json"
HISTORY = 50


class Target:
    """A running server and the two kinds of requests for it."""

    def __init__(self, url: str, pid: int, bundle: Bundle) -> None:
        where = urlsplit(url)
        self.host, self.port, self.tree = where.hostname or "", where.port or 80, ProcessTree.known(pid)
        items, weights = bundle.catalog.vocabulary.ids, (bundle.popularity[1:] + 1).astype("float64")
        self.requests = {
            path: requests(Questions(path=path, history=HISTORY), where.netloc, items, weights)
            for path in ("/noop", "/recommend")
        }

    def load(self, path: str, settings: LoadSettings) -> LoadReport:
        """One load; any error makes the whole benchmark void."""
        report = load(self.host, self.port, self.requests[path], settings, self.tree)
        if report.errors:
            raise SystemExit(f"{path}: errors {report.errors}")
        print(f"{path:11} {report.requests_per_second:9,.0f}/s  {_shown(report)}", flush=True)
        return report


def _shown(report: LoadReport) -> str:
    cpu = f"server {report.server.cpu:.2f} of a core, " if report.server else ""
    return f"p50 {report.latency_ms.p50:.2f} ms, p99 {report.latency_ms.p99:.2f} ms; {cpu}{report.verdict}"


def measure(folder: Path, rounds: int, seconds: float, connections: int) -> dict[str, Any]:
    """The whole benchmark as one JSON object."""
    bundle = open_bundle(folder)
    with cores_apart() as (cores, own), server(folder, 1, cores) as running:
        target = Target(running.url, running.pid, bundle)
        full = LoadSettings(seconds=seconds, warm_up=1.0, connections=connections)
        pairs = [(target.load("/noop", full), target.load("/recommend", full)) for _ in range(rounds)]
        most = statistics.median(asked.requests_per_second for _, asked in pairs)
        half = LoadSettings(rate=max(most / 2, 1.0), seconds=2 * seconds, warm_up=1.0, arrivals="poisson")
        at_half = target.load("/recommend", half)
    ratios = [noop.requests_per_second / asked.requests_per_second for noop, asked in pairs]
    return {
        "machine": describe(),
        "cores": {"server": sorted(cores or ()), "generator": sorted(own or ())},
        "bundle": {"name": bundle.name, "version": bundle.version, "n_items": len(bundle.catalog)},
        "model": bundle.manifest.model,
        "history": HISTORY,
        "connections": connections,
        "noop_per_second": statistics.median(noop.requests_per_second for noop, _ in pairs),
        "recommend_per_second": most,
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "cpu_ratio": round(statistics.median(_cpu(asked) / _cpu(noop) for noop, asked in pairs), 2),
        "quiet": all(_had_its_core(report) for pair in pairs for report in pair),
        "generator_is_bottleneck": any(report.generator_is_bottleneck for pair in pairs for report in pair),
        "half_load": msgspec.to_builtins(at_half),
        "rounds": msgspec.to_builtins([{"noop": noop, "recommend": asked} for noop, asked in pairs]),
    }


def _cpu(report: LoadReport) -> float:
    """Server CPU seconds a request: a second view of the ratio, less shaken by other work on the machine."""
    return report.server.cpu_seconds / report.n if report.server else float("nan")


def _had_its_core(report: LoadReport) -> bool:
    """A saturated server that does not use its whole core shares it with other work: the figures are void."""
    return report.server is None or report.server.cpu > 0.95


def packed() -> Path:
    """The bundle of the SASRec that benchmarks.quality has trained."""
    run = ROOT / "runs" / "quality" / "ml1m-leave-last-out-sasrec-42"
    if not (run / "checkpoint").exists():
        raise SystemExit(
            f"runs/quality/{run.name} is missing -> run -m benchmarks.quality --set ml1m --only sasrec first"
        )
    command = ["pack", str(run / "checkpoint"), "-o", str(run / "bundle")]
    subprocess.run([sys.executable, "-m", "millirec", *command], check=True, stdout=subprocess.DEVNULL)
    return run / "bundle"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", help="a bundle; absent: the SASRec of benchmarks.quality")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    options = parser.parse_args()
    figures = measure(options.bundle or packed(), options.rounds, options.seconds, options.connections)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    half, latency = figures["half_load"], figures["half_load"]["latency_ms"]
    print(
        f"/noop {figures['noop_per_second']:,.0f}/s, /recommend {figures['recommend_per_second']:,.0f}/s: one in "
        f"{figures['ratio']} (by server CPU: one in {figures['cpu_ratio']}); the target is one in 6, the goal one in 2"
    )
    if not figures["quiet"]:
        print("VOID: the server did not have its core to itself; stop other work on this machine and run again")
    print(f"at {half['rate']:,.0f}/s: p50 {latency['p50']} ms, p99 {latency['p99']} ms; {half['verdict']}")


if __name__ == "__main__":
    main()
