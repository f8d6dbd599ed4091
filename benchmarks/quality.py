"""Quality on MovieLens-1M, leave-last-out, whole catalogue ranked, seen items left out; beside published figures.

    python benchmarks/quality.py                      every model, seed 42: about half an hour on 2 cores
    python benchmarks/quality.py --only sasrec --seeds 42 43 44
    python benchmarks/quality.py --table              only make docs/quality.md again from the results

Each run goes through the `millirec train` command in a process of its own. One file a run in
benchmarks/results/, and one table in docs/quality.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.machine import describe  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
RUNS = ROOT / "runs"
MODELS = {
    "popularity": '[model]\nkind = "popularity"',
    "item-knn": '[model]\nkind = "item-knn"',
    "ease": '[model]\nkind = "ease"',
    "gru4rec": """[model]
kind = "gru4rec"
embedding_dim = 64
hidden_dim = 128
[train]
batch_size = 32
learning_rate = 2e-3
warmup_steps = 200
epochs = 20
decay_epochs = 20
validate_every = 2
max_minutes = 25.0
""",
    "sasrec": """[model]
kind = "sasrec"
feed_forward = 1
[train]
batch_size = 32
learning_rate = 2e-3
warmup_steps = 200
epochs = 30
decay_epochs = 30
validate_every = 2
max_minutes = 18.0
""",
}
# HR@10, NDCG@10 as published for the same protocol.
PUBLISHED = (
    ("SASRec with BCE", "Klenitskiy and Vasilev, RecSys 2023", 0.2500, 0.1341),
    ("BERT4Rec", "Klenitskiy and Vasilev, RecSys 2023", 0.2843, 0.1537),
    ("SASRec, full softmax", "Klenitskiy and Vasilev, RecSys 2023", 0.3152, 0.1821),
    ("SASRec, sampled softmax", "RecTools' transformer benchmark", 0.2929, 0.1684),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[42])
    parser.add_argument("--table", action="store_true", help="make the table from the results that are there")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    if not options.table:
        for name in options.only:
            for seed in options.seeds:
                run(name, seed)
    write_table()


def run(name: str, seed: int) -> None:
    """Train one model with one seed and keep its figures."""
    label = f"{name}-ml1m" + ("" if seed == 42 else f"-{seed}")
    data = Path(os.environ.get("MILLIREC_DATA", ROOT / ".." / "shared" / "data")).resolve() / "ml-1m"
    head = f'name = "{label}"\nout = {json.dumps(str(RUNS))}\n[data]\nkind = "movielens"\n'
    head += f"path = {json.dumps(str(data))}\n"
    config = RUNS / f"{label}.toml"
    RUNS.mkdir(exist_ok=True)
    config.write_text(f"{head}{MODELS[name]}\n[machine]\nseed = {seed}\n", encoding="utf-8")
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "millirec", "train", "-c", str(config), "--force"])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{label}: training failed")
    metrics = json.loads((RUNS / label / "metrics.json").read_text())
    result = {
        "name": name,
        "seed": seed,
        "config": MODELS[name],
        "protocol": metrics["test"]["protocol"] + ", whole catalogue ranked, seen items left out",
        "n_targets": metrics["test"]["n_targets"],
        "figures": metrics["test"]["figures"],
        "validation": metrics["validation"],
        "training_seconds": metrics["seconds"],
        "wall_seconds": time.monotonic() - began,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_memory_mib": usage.ru_maxrss / 1024,
        "machine": describe(),
    }
    (RESULTS / f"quality-{label}.json").write_text(json.dumps(result, indent=1) + "\n")


def write_table() -> None:
    """docs/quality.md from all results."""
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("quality-*.json"))]
    results.sort(key=lambda r: (list(MODELS).index(r["name"]), r["seed"]))
    rows = [row(result) for result in results]
    rows += [f"| {who} | {source} | {ndcg:.4f} | {hr:.4f} | | | |" for who, source, hr, ndcg in PUBLISHED]
    machines = sorted({f"{r['machine']['processor']}, {r['machine']['cores']} cores" for r in results})
    text = f"""# Quality on MovieLens-1M

Made by `python benchmarks/quality.py`. Leave-last-out (stable sort by time, file order on ties), all 3,706 movies
ranked, seen items left out, ties against the model. ± is half of a 95 % bootstrap interval over users. Minutes are
wall-clock training time, validation included, on {"; ".join(machines)}.

| model | seed or source | NDCG@10 | HR@10 | coverage@10 | minutes | peak MiB |
|---|---|---|---|---|---|---|
{chr(10).join(rows)}
"""
    (ROOT / "docs" / "quality.md").write_text(text, encoding="utf-8")
    print(text)


def row(result: dict[str, Any]) -> str:
    figures = result["figures"]
    chosen = (figures["ndcg@10"], figures["hr@10"])
    cells = [f"{figure['value']:.4f} ±{(figure['high'] - figure['low']) / 2:.4f}" for figure in chosen]
    coverage, minutes = figures["coverage@10"]["value"], result["training_seconds"] / 60
    memory = f"{result['peak_memory_mib']:.0f}" if "peak_memory_mib" in result else ""
    tail = f"{coverage:.3f} | {minutes:.1f} | {memory}"
    return f"| millirec {result['name']} | seed {result['seed']} | {cells[0]} | {cells[1]} | {tail} |"


if __name__ == "__main__":
    main()
