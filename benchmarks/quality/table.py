"""docs/quality.md from all results: published figures beside ours, seeds summarised."""

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.quality.sets import ROOT, Set, names, read_set
from benchmarks.quality.train import RESULTS, current

PEERS = ROOT / "benchmarks" / "results" / "peers"
PAGE = ROOT / "docs" / "quality.md"
Result = dict[str, Any]
_HEAD = """# Quality

Made by `python -m benchmarks.quality --table` from `benchmarks/results/quality/`, one file a run; `python -m
benchmarks.quality --set SET --only MODEL --seeds 1 2 3 --resume` makes a run. Everywhere the whole catalogue is ranked,
never a sample; ties count against the model; "last" is by a stable sort on time, file order on ties. The time of the
request is known to the models, as it is to a server (only those with a time bias read it). A figure of several seeds
is mean ± standard deviation over the seeds (their number in brackets), of one seed its 95 % bootstrap interval over
users. Rows "as served" are of bundles, replayed through the engine: [counts beside a
network](cascade.md#counts-beside-a-network). Minutes are wall-clock training time, validation included, and in
brackets the CPU minutes of the whole command: most runs shared their machine with other work. "Minutes to" a figure:
until it was first read on the validation part. See [evaluation.md](evaluation.md) for the rules and their reasons.
"""


def write() -> None:
    """The page, from the results that are there."""
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    peers = [json.loads(path.read_text()) for path in sorted(PEERS.glob("*.json"))]
    peers = [entry for entry in peers if "figures" in entry]
    parts = [_HEAD]
    for name in names():
        spec = read_set(name)
        own = [result for result in results if result["set"] == name]
        for result in own:
            if not current(result, spec):
                print(f"left out, of another split or log than the spec: {name} {result['model']} {result['seed']}")
        own = [result for result in own if current(result, spec)]
        if own:
            parts.append(section(spec, own, peers))
    machines = sorted({_machine(result) for result in results})
    parts.append("## Machines\n\n" + "\n".join(f"- {machine}" for machine in machines) + "\n")
    PAGE.write_text("\n".join(parts), encoding="utf-8")


def section(spec: Set, results: list[Result], peers: Sequence[Result] = ()) -> str:
    """One data set: a row a model, best first, its protocols side by side; then peers that were trained here, on the
    same split and machine; then what others have published."""
    by_model: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_model[result["model"]].append(result)
    first, lead = next(iter(spec.protocols)), spec.metrics[0]
    order = sorted(by_model, key=lambda model: -_mean(_of(by_model[model], first), lead))
    shown = [f"{protocol}: {metric.upper()}" for protocol in spec.protocols for metric in spec.metrics]
    watch = [f"minutes to {spec.watch:.3f}"] if spec.watch else []
    head = ["model", *shown, "coverage@10", "minutes (CPU)", *watch, "peak MiB"]
    rows = [row(spec, model, by_model[model]) for model in order]
    rows += [_peer(spec, entry, len(head)) for entry in peers if entry["set"] == results[0]["set"]]
    rows += [_published(spec, entry, len(head)) for entry in spec.published]
    lines = [_line(head), "|" + "---|" * len(head), *map(_line, rows)]
    return f"## {spec.title}\n\n{spec.about}\n\n" + "\n".join(lines) + "\n"


def row(spec: Set, model: str, results: list[Result]) -> list[str]:
    """The cells of one model."""
    cells = [model]
    for protocol in spec.protocols:
        own = _of(results, protocol)
        cells += [cell([result["figures"][metric] for result in own]) for metric in spec.metrics]
    own = _of(results, next(iter(spec.protocols))) or results
    cells.append(f"{_mean(own, 'coverage@10'):.3f}")
    minutes = statistics.median(result["training_seconds"] for result in own) / 60
    work = [result["cpu_seconds"] / 60 for result in own if "cpu_seconds" in result]
    cells.append(f"{minutes:.1f}" + (f" ({statistics.median(work):.1f})" if work else ""))
    if spec.watch:
        reached = [result["minutes_to_watch"] for result in own if result.get("minutes_to_watch") is not None]
        cells.append(f"{statistics.median(reached):.1f}" if reached else "")
    peaks = [result["peak_memory_mib"] for result in own if "peak_memory_mib" in result]
    cells.append(f"{max(peaks):.0f}" if peaks else "")
    return cells


def cell(figures: list[dict[str, float]]) -> str:
    """Mean ± sd over seeds; the interval over users of a single one, and of what is the same for every seed."""
    if not figures:
        return ""
    values = [figure["value"] for figure in figures]
    if len(set(values)) > 1:
        return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f} ({len(values)})"
    low, high = figures[0]["low"], figures[0]["high"]
    return f"{values[0]:.4f} [{low:.4f}, {high:.4f}]"


def _published(spec: Set, entry: Any, width: int) -> list[str]:
    cells = [f"*{entry.who}* ({entry.source})"]
    for protocol in spec.protocols:
        known = entry.figures if protocol == entry.protocol else {}
        cells += [f"*{known[metric]:.4f}*" if metric in known else "" for metric in spec.metrics]
    return cells + [""] * (width - len(cells))


def _peer(spec: Set, entry: Result, width: int) -> list[str]:
    cells = [f"*{entry['title']}, trained here*"]
    for protocol in spec.protocols:
        own = [entry["figures"]] if protocol == "leave-last-out" else []
        cells += [cell([figures[metric] for figures in own]) for metric in spec.metrics]
    cells += [f"{entry['figures']['coverage@10']['value']:.3f}", f"{entry['training_seconds'] / 60:.1f}"]
    cells += [""] * (width - len(cells) - 1)
    return [*cells, f"{entry['peak_memory_mib']:.0f}"]


def _of(results: list[Result], protocol: str) -> list[Result]:
    return [result for result in results if result["protocol"] == protocol]


def _mean(results: list[Result], metric: str) -> float:
    return statistics.mean(result["figures"][metric]["value"] for result in results) if results else 0.0


def _machine(result: Result) -> str:
    machine = result["machine"]
    device = f", {machine['device']}" if machine.get("device", "cpu") != "cpu" else ""
    return f"{machine['processor']}, {machine['cores']} cores{device}; {machine['system']}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
