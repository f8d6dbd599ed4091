"""Several rankers of the plan as one: the mean of their logits, members chosen on the validation rows.

    python -m benchmarks.ranking --fields published untimed --protocol random-rows    makes the rankers (hours)
    python -m benchmarks.ranking.ensemble            a minute and a half
    python -m benchmarks.ranking.ensemble --table    only print the table again

Members are added one by one, each time the one that makes the AUC of the validation rows highest, until none adds more
than 0.0001 (after Caruana et al., "Ensemble selection from libraries of models", ICML 2004). Then the test part is read
once. The pool: all runs under random rows, split 0, of the fields that the published figures are of, with the moment
and without. Leaves benchmarks/results/ranking-ensemble.json.
"""

import argparse
import json
import time
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe
from benchmarks.ranking.runs import RESULTS, ROOT, RUNS
from millirec.cli.ranker import data_of_ranker
from millirec.data.dataset import TEST, VALIDATION, Dataset
from millirec.data.features import ranking_rows
from millirec.data.labels import labels_of
from millirec.metrics import ctr
from millirec.metrics.ctr_summary import summarise_chances
from millirec.models.rankers.checkpoint import RankerCheckpoint, logits_of
from millirec.train.calibrate import calibrated

RESULT = ROOT / "benchmarks" / "results" / "ranking-ensemble.json"
FIELDS, LEAST = ("published", "untimed"), 1e-4
Logits = dict[str, NDArray[np.float64]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the table of the result that is there")
    if not parser.parse_args().table:
        run()
    print(table(json.loads(RESULT.read_text())))


def pool() -> list[str]:
    """The labels of the runs that may be members: those whose results and checkpoints are there."""
    found = []
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        own = (result["protocol"], result.get("split", 0)) == ("random-rows", 0) and result["fields"] in FIELDS
        if own and (RUNS / path.stem / "checkpoint").exists():
            found.append(path.stem)
    return found


def run() -> None:
    """Choose on validation rows, then read the test rows."""
    began, said = time.process_time(), Said()
    for label in pool():
        said.ask(label)
    chosen, course = selected(said.validation, said.labels[VALIDATION])
    validation, test = (np.mean([of[name] for name in chosen], axis=0) for of in (said.validation, said.test))
    curve = calibrated("platt", validation, said.labels[VALIDATION])
    result = {
        "pool": list(said.validation),
        "members": [{"run": name, "validation_auc": auc} for name, auc in zip(chosen, course, strict=True)],
        "alone": {name: ctr.auc(said.labels[TEST], said.test[name]) for name in chosen},
        "figures": msgspec.to_builtins(summarise_chances(said.labels[TEST], curve.chances(test), said.users[TEST])),
        "cpu_seconds": time.process_time() - began,
        "machine": describe(),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def selected(logits: Logits, labels: NDArray[np.int8]) -> tuple[list[str], list[float]]:
    """Members in the order in which they were added, and the AUC of the mean of their logits after each."""
    chosen: list[str] = []
    course: list[float] = []
    while len(chosen) < len(logits):
        left = [name for name in logits if name not in chosen]
        aucs = [ctr.auc(labels, np.mean([logits[own] for own in (*chosen, name)], axis=0)) for name in left]
        if course and max(aucs) < course[-1] + LEAST:
            break
        chosen.append(left[int(np.argmax(aucs))])
        course.append(max(aucs))
    return chosen, course


class Said:
    """Logits of rankers on the same rows, by the label of the run; rows of the same features are made once."""

    def __init__(self) -> None:
        self.validation: Logits = {}
        self.test: Logits = {}
        self.labels: dict[int, NDArray[np.int8]] = {}
        self.users: dict[int, NDArray[np.int32]] = {}
        self._data: Dataset | None = None
        self._rows: dict[bytes, Any] = {}

    def ask(self, label: str) -> None:
        """One more ranker."""
        ranker = RankerCheckpoint.load(RUNS / label / "checkpoint")
        self._data = self._data or data_of_ranker(ranker, None)
        key = msgspec.json.encode([ranker.featuriser.fields, ranker.featuriser.learned])
        if key not in self._rows:
            self._rows[key], _ = ranking_rows(self._data, labels_of(self._data, ranker.label), ranker.featuriser)
        rows = self._rows[key]
        for role, out in ((VALIDATION, self.validation), (TEST, self.test)):
            part = rows.part(role)
            self.labels[role], self.users[role] = rows.labels[part], rows.users[part]
            out[label] = logits_of(ranker.network(), rows.features.take(part))


def table(result: dict[str, Any]) -> str:
    """A row a member, as they were added; the last row is the ensemble's."""
    lines = ["| member | AUC of the validation rows, with those above | AUC of the test rows, alone |", "|---|---|---|"]
    for member in result["members"]:
        name = member["run"]
        lines.append(f"| {name} | {member['validation_auc']:.4f} | {result['alone'][name]:.4f} |")
    auc, loss = (result["figures"][name] for name in ("auc", "log_loss"))
    told = f"AUC {auc['value']:.4f} [{auc['low']:.4f}, {auc['high']:.4f}]"
    told += f", log loss {loss['value']:.4f} [{loss['low']:.4f}, {loss['high']:.4f}]"
    lines.append(f"| **ensemble of {len(result['members'])}** | | **{told}** |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
