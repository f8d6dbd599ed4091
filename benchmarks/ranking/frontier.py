"""Rankers as a dimension of the frontier: the cascade of `two_stage`, its second stage made smaller.

    python -m benchmarks.ranking.frontier            trains what is not there yet, in runs/ranking/two-stage
    python -m benchmarks.ranking --table             docs/ranking-results.md from all results

`millirec frontier -c benchmarks/ranking/frontier.toml`: every variant is packed, replayed on the test part through its
engine, and loaded through its server. Leaves benchmarks/results/ranking-frontier.json.
"""

import json
import os
from typing import Any

from benchmarks.compression.__main__ import millirec, row
from benchmarks.paste import table as lines
from benchmarks.ranking.runs import ROOT, RUNS
from benchmarks.ranking.two_stage import ranked, retrieved

CONFIG = "benchmarks/ranking/frontier.toml"
RESULT = ROOT / "benchmarks" / "results" / "ranking-frontier.json"


def main() -> None:
    """Train, run the frontier, write."""
    model, dataset = retrieved()
    _, cost = ranked(model, dataset, RUNS / "two-stage" / "ranker", again=False)
    found = json.loads(millirec("frontier", "-c", CONFIG, "--json", fine=(0, 3)))
    result = {key: found[key] for key in ("created", "seconds", "protocol", "measure", "host", "choice")}
    result |= {"load": round(os.getloadavg()[0], 1), "ranker": cost}
    result["targets"] = found["variants"][0]["figures"]["quality"]["n_targets"]
    result["users"] = found["variants"][0]["figures"]["quality"]["n_users"]
    result["variants"] = [row(entry) | _second(entry["figures"]) for entry in found["variants"]]
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))


def _second(figures: dict[str, Any]) -> dict[str, Any]:
    """What is told of a variant's ranker, and its difference to the teacher."""
    told = figures["ranker"]
    if told is not None:
        told = {name: told[name] for name in ("model", "weights", "metrics", "parameters", "zeros")} | {
            "steps": [step["name"] for step in told["lineage"]]
        }
    return {"ranker": told, "to_teacher": figures["quality"]["to_teacher"]["ndcg@10"]}


def table(result: dict[str, Any]) -> str:
    """A row a variant; the second stage as its traces tell it. Noisy times on the clock are not shown."""
    head = ["variant", "NDCG@10", "to the teacher", "AUC of its rows", "features, us", "ranker, us", "p99 ms"]
    head += ["requests/s", "CPU s / 1,000", "bundle MB", "MiB"]
    rows = []
    for one in result["variants"]:
        ndcg, gap, ranker, stages = one["ndcg@10"], one["to_teacher"], one["ranker"], one["stages_p50_us"]
        rows.append(
            [
                one["name"],
                f"{ndcg['value']:.4f} [{ndcg['low']:.4f}, {ndcg['high']:.4f}]",
                "" if one is result["variants"][0] else f"{gap['difference']:+.4f} (p = {gap['p_value']:.2g})",
                f"{ranker['metrics']['auc']:.4f}" if ranker else "",
                *(f"{stages[name]:,.0f}" if name in stages else "" for name in ("features", "ranker")),
                "" if one["noisy"] else f"{one['p99_ms']['median']:.2f}",
                "" if one["noisy"] else f"{one['requests_per_second']['median']:,.0f}",
                f"{one['cpu_seconds']['median']:.2f}",
                f"{one['bundle_bytes'] / 1e6:.2f}",
                f"{one['memory_mb']['median']:.0f}",
            ]
        )
    told = [i for i in range(len(head)) if any(cells[i] for cells in rows)]
    return lines([head[i] for i in told], [[cells[i] for i in told] for cells in rows])


if __name__ == "__main__":
    main()
