"""Several outcomes of the same ratings, learned together and alone: MovieLens-100k under global time.

    python -m benchmarks.ranking.tasks            every ranker of several/
    python -m benchmarks.ranking.tasks --table    only print the table again

A rating of 4 or 5 is a success; "five": it is 5; "soon": the same person rates another film within the hour. Each
run leaves one file in benchmarks/results/ranking-tasks/.
"""

import argparse
import json
import tomllib
from typing import Any

from benchmarks.machine import describe
from benchmarks.ranking.runs import HERE, LABEL, PROTOCOLS, ROOT, RUNS, fields_of, shared, train
from millirec.config import RankerRun, convert, dumps

RESULTS = ROOT / "benchmarks" / "results" / "ranking-tasks"
FIELDS, PROTOCOL = "untimed", "global-time"
DATA = {"kind": "movielens", "path": str(shared("ml-100k"))}
TASKS = [
    {"kind": "value", "name": "five", "positive_above": 4},
    {"kind": "next", "name": "soon", "within_seconds": 3600},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=sorted(path.stem for path in (HERE / "several").glob("*.toml")))
    parser.add_argument("--table", action="store_true", help="print the table of the results that are there")
    options = parser.parse_args()
    for name in [] if options.table else options.only:
        run(name)
    print(table([json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]))


def sections_of(name: str) -> dict[str, Any]:
    """What decides the figures of one ranker."""
    spec = tomllib.loads((HERE / "several" / f"{name}.toml").read_text())
    label = LABEL | {"tasks": TASKS}
    return {"label": label, "split": PROTOCOLS[PROTOCOL], "features": fields_of(FIELDS), **spec}


def run(name: str) -> None:
    """Train, measure, and keep the figures."""
    label, sections = f"several-{name}", sections_of(name)
    places = {"name": label, "out": str(RUNS), "data": DATA, "machine": {"seed": 42, "threads": 1}}
    metrics, cost = train(label, dumps(convert(sections | places, RankerRun, label)), resume=False)
    result = {"ranker": name, "config": sections, **metrics, **cost, "machine": describe()}
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def table(results: list[dict[str, Any]]) -> str:
    """A row a ranker: AUC of the served score and of the ranker's own logit, task by task."""
    tasks = ("success", "five", "soon")
    head = ["ranker", *(f"{task}: {kind}" for task in tasks for kind in ("served", "own")), "minutes"]
    lines = [_line(head), "|" + "---|" * len(head)]
    for result in results:
        found = {"success": {"served_auc": result["test"]["figures"]["auc"]}} | result["test"]["tasks"]
        cells = [_cell(found.get(task, {}).get(kind)) for task in tasks for kind in ("served_auc", "auc")]
        lines.append(_line([result["ranker"], *cells, f"{result['cpu_seconds'] / 60:.1f}"]))
    return "\n".join(lines) + "\n"


def _cell(figure: dict[str, float] | None) -> str:
    return "" if figure is None else f"{figure['value']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
