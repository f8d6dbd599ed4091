"""docs/ranking-results.md from all results: published figures beside ours."""

import json
import statistics
from collections import defaultdict
from typing import Any

from benchmarks.ranking import compression, ensemble, frontier, leave_out, tasks
from benchmarks.ranking.runs import PROTOCOLS, RESULTS, ROOT, Settings, sections_of

PAGE = ROOT / "docs" / "ranking-results.md"
Result = dict[str, Any]
PUBLISHED = {
    "LR": (0.7716, 0.4424),
    "FM": (0.8252, 0.3998),
    "DeepCrossing": (0.8448, 0.3814),
    "AutoInt": (0.8456, 0.3797),
    "AutoInt+": (0.8488, 0.3753),
}
FIELDS = {
    "published": (
        "The fields of AutoInt's protocol",
        "Gender, age, occupation, zip code; genres, year; the moment of the rating as a number: the 3,529 values that "
        "the preparation of AutoInt's authors makes. It names neither the person nor the film; with their ids even a "
        "linear model stands far above what they report. Published figures: Song et al., CIKM 2019, another random "
        "split (random rows are 74 thousand in the test part, and the same ranker moves by some 0.003 of AUC from one "
        "split to the next, which is why there are several).",
    ),
    "untimed": (
        "The same without the moment",
        "Six of the seven fields. The moment, as a number, means something under random rows only: FinalMLP did better "
        "without it, on validation rows too, DCN V2 with it, and a split by time puts every question beyond all that "
        "was learned from.",
    ),
    "ids": (
        "With the ids of person and film",
        "The six fields, and both ids. Nobody's published figures are of these.",
    ),
    "history": (
        "With what was known before",
        "The same, and point-in-time features: the newest 20 liked and 20 disliked films of the person, rates and "
        "counts by film, person, and person with year, the gap since the last event. Under the random split they know "
        "older rows of the training part only (and those with 3 stars); under global time all that is older than the "
        "row, as a server would.",
    ),
}
_HEAD = """# Rankers on MovieLens-1M

Made by `python -m benchmarks.ranking --table` from `benchmarks/results/ranking/`, one file a run; `python -m
benchmarks.ranking --fields FIELDS --protocol PROTOCOL --only RANKER --seeds 1 2 3` makes runs. 4 and 5 stars are a
success, 1 and 2 a failure, 3 is left out: 739 thousand rows, 78 % successes. Settings and the epoch that is kept were
chosen on validation rows. Intervals are 95 % bootstrap over people; of several splits or seeds, mean ± standard
deviation (how many). Log loss and calibration error (20 bins of equal mass) are after Platt's calibration on the
validation part, in brackets the calibration error before it. Minutes are of the processor, from reading to measuring.

**random rows** (8:1:1) is the protocol of the papers. A model learns from rows that are newer than those it is asked.
**global time** (the newest tenth of the log tests, the tenth before validates) is what a server meets. 511 people whose
times are not known are left out. Two in five rows of its test part are of people without a training row, and tastes and
films move on: figures are far below those of random rows.
"""

_TASKS = """Made by `python -m benchmarks.ranking.tasks` on MovieLens-100k under global time, six fields. "five":
5 stars, not 4 or less; "soon": the same person rates another film within the hour. "served" is the AUC of the score
that is served, "own" that of the ranker's own logit for the task. `mmoe` learns all three and serves the chances of
success and of five stars, 1 to 0.5; `dnn` learns success alone."""
_ENSEMBLE = """Made by `python -m benchmarks.ranking.ensemble`: the mean of the logits of several rankers of the first
two tables, under random rows (split 0). Members were added one by one by the AUC of the validation rows, until none
added more than 0.0001; then the test part was read, once. Published figures are of single rankers."""
_LEAVE_OUT = """Made by `python -m benchmarks.ranking.leave_out`, which asks `millirec features --retrain`: an `fm` of
17 features on MovieLens-100k under global time, on the rows of the validation part. Three rankers with all features,
three without each group; differences are of the same seed, on the same rows; + is worse without. Intervals are 95 %
over people, p is of no difference in log loss. The last figure is what the report without `--retrain` says: the sum of
the AUCs that are lost when the values of the group's features are dealt out at random."""
_COMPRESSION = """Made by `python -m benchmarks.ranking.compression` from `dcnv2`, published fields, random rows,
by the recipes in `benchmarks/ranking/recipes/`. Bytes are those of the parameters on disk, without vocabularies."""


def write() -> None:
    """The page, from the results that are there."""
    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    current = [result for result in results if is_current(result)]
    for result in results:
        if result not in current:
            print(f"left out, of other settings than the specs: {_settings(result).label}")
    parts = [_HEAD]
    for fields, (title, about) in FIELDS.items():
        own = [result for result in current if result["fields"] == fields]
        if own:
            parts.append(f"## {title}\n\n{about}\n\n{table(own, fields)}")
    parts += _more()
    machines = sorted({f"{r['machine']['processor']}, {r['machine']['system']}, CPU only" for r in current})
    parts.append("## Machines\n\n" + "\n".join(f"- {machine}" for machine in machines) + "\n")
    PAGE.write_text("\n".join(parts), encoding="utf-8")


def _more() -> list[str]:
    """What the other benchmarks of rankers have measured."""
    told = []
    for title, text, made in (
        ("Several rankers as one", _ENSEMBLE, ensemble),
        ("Without a group of features", _LEAVE_OUT, leave_out),
    ):
        if made.RESULT.exists():
            told.append(f"## {title}\n\n{text}\n\n{made.table(json.loads(made.RESULT.read_text()))}")
    if results := [json.loads(path.read_text()) for path in sorted(tasks.RESULTS.glob("*.json"))]:
        told.append(f"## Several outcomes\n\n{_TASKS}\n\n{tasks.table(results)}")
    if results := [json.loads(path.read_text()) for path in sorted(compression.RESULTS.glob("*.json"))]:
        told.append(f"## Smaller rankers\n\n{_COMPRESSION}\n\n{compression.table(results)}")
    if frontier.RESULT.exists():
        told.append(f"## Retrieval and ranker on one frontier\n\n{_frontier(json.loads(frontier.RESULT.read_text()))}")
    return told


def _frontier(found: Result) -> str:
    host, measure = found["host"], found["measure"]
    about = (
        "Made by `python -m benchmarks.ranking.frontier` (`frontier.toml`): a SASRec, and a `dnn` of its candidates "
        f"(`two_stage.toml`), {found['protocol']}. Quality: {found['targets']:,} targets of {found['users']:,} people "
        "drawn from the test part, through the engine; intervals over people, differences paired. Speed: medians of "
        f"{measure['rounds']} rounds through a server on one core, with {measure['connections']} connections "
        "(requests/s, CPU, memory) and one question after the other (p99); stages are p50 of traces. "
        f"{host['processor']}, {host['cores']} cores; the load of the machine was {found['load']:g}: p99 and "
        "requests/s that other work has disturbed are left out, CPU seconds and medians suffer less."
    )
    return f"{about}\n\n{frontier.table(found)}\n"


def is_current(result: Result) -> bool:
    """Whether a result is of the settings that the specs have now."""
    try:
        return bool(result["config"] == sections_of(_settings(result)))
    except FileNotFoundError:
        return False


def table(results: list[Result], fields: str) -> str:
    """A row a ranker, best first under the random split, both protocols side by side."""
    by_ranker: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_ranker[result["ranker"]].append(result)
    head = ["ranker"]
    for protocol in PROTOCOLS:
        head += [f"{protocol}: AUC", "log loss", "calibration error"]
    lines = [_line([*head, "minutes"]), "|" + "---|" * (len(head) + 1)]
    for ranker in sorted(by_ranker, key=lambda name: -_lead(by_ranker[name])):
        cells = [ranker]
        for protocol in PROTOCOLS:
            cells += cells_of([r for r in by_ranker[ranker] if r["protocol"] == protocol])
        minutes = statistics.median(r["cpu_seconds"] / 60 for r in by_ranker[ranker])
        lines.append(_line([*cells, f"{minutes:.1f}"]))
    if fields in ("published", "untimed"):
        for name, (auc, loss) in PUBLISHED.items():
            lines.append(_line([f"*{name}, published*", f"*{auc:.4f}*", f"*{loss:.4f}*"] + [""] * (len(head) - 2)))
    return "\n".join(lines) + "\n"


def cells_of(results: list[Result]) -> list[str]:
    """AUC, log loss and calibration error of one protocol; empty without runs."""
    if not results:
        return ["", "", ""]
    cells = []
    for name in ("auc", "log_loss"):
        values = [result["test"]["figures"][name]["value"] for result in results]
        if len(values) > 1:
            cells.append(f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f} ({len(values)})")
            continue
        figure = results[0]["test"]["figures"][name]
        cells.append(f"{figure['value']:.4f} [{figure['low']:.4f}, {figure['high']:.4f}]")
    after = statistics.mean(result["test"]["figures"]["calibration_error"]["value"] for result in results)
    before = statistics.mean(result["test"]["uncalibrated"]["calibration_error"] for result in results)
    return [*cells, f"{after:.4f} ({before:.4f})"]


def _lead(results: list[Result]) -> float:
    """The mean AUC under random rows; those without come behind, by that under global time."""
    under: dict[str, list[float]] = defaultdict(list)
    for result in results:
        under[result["protocol"]].append(result["test"]["figures"]["auc"]["value"])
    return statistics.mean(under["random-rows"] or [auc - 1 for auc in under["global-time"]])


def _settings(result: Result) -> Settings:
    return Settings(**{name: result[name] for name in Settings.__struct_fields__ if name in result})


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
