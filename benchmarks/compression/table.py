"""docs/compression-results.md from all results of benchmarks/compression."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "compression-results.md"
_HEAD = """# What compression gives

Made by `python -m benchmarks.compression --table` from `benchmarks/results/`. Quality is replayed through the engine on
the test part, with the whole catalogue ranked; speed is measured at the real server, on one core, in interleaved rounds
(see [frontier.md](frontier.md)). `kept`: NDCG@10 as a share of the teacher's, with the lower end of its 95 % interval.
"""
_TITLES = {
    "ml1m": "MovieLens-1M, the teacher HSTU-large",
    "beauty": "Amazon Beauty (BERT4Rec's, 54,542 items), the teacher SASRec",
}


def write() -> None:
    """The page, from the results that are there."""
    parts = [_HEAD]
    for name, title in _TITLES.items():
        if (found := _read(f"frontier-{name}")) is not None:
            parts.append(_frontier(title, found))
    for name, section in (("compression-encoder", _encoder), ("compression-million", _million)):
        if (found := _read(name)) is not None:
            parts.append(section(found))
    PAGE.write_text("\n".join(parts), encoding="utf-8")


def _read(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _frontier(title: str, found: dict[str, Any]) -> str:
    teacher = found["variants"][0]
    rows = [_variant(one, teacher) for one in found["variants"]]
    head = [
        "variant",
        "NDCG@10",
        "kept",
        "from",
        "kB",
        "smaller",
        "requests/s",
        "times",
        "p99 ms",
        "MiB",
        "CPU s / 1,000",
    ]
    bench = "; ".join(f"{one['name']} {one['ratio'] - 1:+.1%}" for one in found["bench"])
    seconds = found["frontier_seconds"]
    took = "partly from an earlier run's cache" if seconds is None else f"in {seconds / 60:.1f} minutes"
    about = (
        f"{found['protocol']}; {found['measure']['history']} events a user. {len(rows)} variants {took}, given the "
        f"checkpoints. Requests/s under `millirec bench` "
        f"against the frontier's: {bench}. {_machine(found['host'])}"
    )
    return f"## {title}\n\n{_table(head, rows)}\n\n{about}\n"


def _variant(one: dict[str, Any], teacher: dict[str, Any]) -> list[str]:
    speed, first = one["requests_per_second"]["median"], teacher["requests_per_second"]["median"]
    return [
        one["name"] + (" (noisy)" if one["noisy"] else ""),
        f"{one['ndcg@10']['value']:.4f}",
        f"{one['kept']['value']:.1%}",
        f"{one['kept']['low']:.1%}",
        f"{one['bundle_bytes'] / 1e3:,.0f}",
        f"{teacher['bundle_bytes'] / one['bundle_bytes']:.1f} x",
        f"{speed:,.0f}",
        f"{speed / first:.1f} x",
        f"{one['p99_ms']['median']:.2f}",
        f"{one['memory_mb']['median']:.0f}",
        f"{one['cpu_seconds']['median']:.2f}",
    ]


def _encoder(found: dict[str, Any]) -> str:
    lengths = sorted({row["events"] for row in found["rows"]})
    names = list(dict.fromkeys(row["bundle"] for row in found["rows"]))
    by = {(row["bundle"], row["events"]): row for row in found["rows"]}
    rows = [
        [name, *(f"{by[name, n]['microseconds_a_question']:,.1f} ({by[name, n]['ratio']:,.1f} x)" for n in lengths)]
        for name in names
    ]
    head = ["encoder", *(f"{n} events" for n in lengths)]
    about = f"Microseconds a question in batches of {found['batch']}, on one core, and how much faster than the first."
    return f"## The encoder alone\n\n{about}\n\n{_table(head, rows)}\n"


def _million(found: dict[str, Any]) -> str:
    rows = []
    for name, one in found["rows"].items():
        value, low, high = one["kept"]
        found_ms = f"{one['median_ms']:.3f} / {one['p99_ms']:.3f}" if "median_ms" in one else ""
        exact = f"{one['share_of_exact_answers']:.3%}" if "median_ms" in one else ""
        kept = f"{value:.1%} ({low:.1%} to {high:.1%})"
        sizes = (f"{one[size]:,.1f}" if size in one else "" for size in ("file_mb", "item_memory_mb"))
        rows.append([name, f"{one['recall@10']:.4f}", kept, *sizes, found_ms, exact])
    head = ["items", "recall@10", "kept", "file, MB", "item memory, MB", "top-100, median / p99 ms", "answers exact"]
    settings = found["settings"]
    about = (
        f"Simulator: {settings['items']:,} items, {settings['users']:,} users, {settings['events']:,} events; SASRec "
        f"of width 128; one tier of {settings['codes']} codes of {settings['bits']} bits an item, or two: "
        f"{settings['fine_codes']} codes for the {settings['share']:.0%} of the items with most events and "
        f"{settings['coarse_codes']} for all others; one core."
    )
    return f"## A million items\n\n{about}\n\n{_table(head, rows)}\n"


def _machine(host: dict[str, Any]) -> str:
    return f"{host['processor']}, {host['cores']} cores, Python {host['python']}."


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
