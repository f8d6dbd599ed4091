"""A ranker of the plan, made smaller by each recipe of recipes/: AUC and log loss on its test rows, and bytes.

    python -m benchmarks.ranking --fields published --protocol random-rows --only dcnv2    makes the ranker
    python -m benchmarks.ranking.compression            every recipe
    python -m benchmarks.ranking.compression --table    only print the table again

Each recipe leaves one file in benchmarks/results/ranking-compression/.
"""

import argparse
import json
import time
from typing import Any

import msgspec

from benchmarks.machine import describe
from benchmarks.ranking.runs import HERE, ROOT, RUNS
from millirec.cli.ranker import data_of_ranker
from millirec.compress.rankers.base import RankerWorkshop
from millirec.compress.rankers.recipe import RankerRecipe, compress_ranker
from millirec.compress.rankers.report import size_of
from millirec.config import convert, read_toml
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.train.evaluate_ranker import evaluate_rows
from millirec.train.machine import Machine

RESULTS = ROOT / "benchmarks" / "results" / "ranking-compression"
RANKER = "published-random-rows-dcnv2-42"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranker", default=RANKER, help="the label of a run of the plan")
    parser.add_argument("--only", nargs="*", default=recipes())
    parser.add_argument("--table", action="store_true", help="print the table of the results that are there")
    options = parser.parse_args()
    if not options.table:
        run(options.ranker, options.only)
    print(table([json.loads(path.read_text()) for path in RESULTS.glob("*.json")]))


def recipes() -> list[str]:
    """The recipes that there are."""
    return sorted(path.stem for path in (HERE / "recipes").glob("*.toml"))


def run(label: str, names: list[str]) -> None:
    """The ranker as it is, then each recipe on it; one file of figures each."""
    before = RankerCheckpoint.load(RUNS / label / "checkpoint")
    dataset = data_of_ranker(before, None)
    workshop = RankerWorkshop(read=lambda: dataset, machine=Machine(threads=1))
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in ["as it is", *names]:
        began, made, recipe = time.process_time(), before, None
        if name != "as it is":
            recipe = convert(read_toml(HERE / "recipes" / f"{name}.toml"), RankerRecipe, name)
            made = compress_ranker(before, recipe, workshop)
            made.save(RUNS / f"{label}-{name}")
        result = {
            "recipe": name,
            "ranker": label,
            "steps": None if recipe is None else msgspec.to_builtins(recipe.steps),
            "features": [field.name for field in made.featuriser.fields],
            "size": msgspec.to_builtins(size_of(made)),
            "test": msgspec.to_builtins(evaluate_rows(made, workshop.rows(made), dataset.protocol)),
            "cpu_seconds": time.process_time() - began,
            "machine": describe(),
        }
        (RESULTS / f"{name.replace(' ', '-')}.json").write_text(json.dumps(result, indent=1) + "\n")
        print(f"{name}: done", flush=True)


def table(results: list[dict[str, Any]]) -> str:
    """A row a recipe, the largest first."""
    head = ["recipe", "AUC", "log loss", "features", "values", "bytes", "of the whole", "multiply-adds a row"]
    lines = [_line(head), "|" + "---|" * len(head)]
    whole = max((result["size"]["bytes"] for result in results), default=1)
    for result in sorted(results, key=lambda result: -result["size"]["bytes"]):
        size, figures = result["size"], result["test"]["figures"]
        auc, loss = (
            f"{figures[name]['value']:.4f} [{figures[name]['low']:.4f}, {figures[name]['high']:.4f}]"
            for name in ("auc", "log_loss")
        )
        numbers = [f"{size[name]:,}" for name in ("features", "values", "bytes")]
        cells = [result["recipe"], auc, loss, *numbers, f"{size['bytes'] / whole:.1%}", f"{size['multiply_adds']:,}"]
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
