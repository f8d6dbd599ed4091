"""The specs of the ranking benchmark, and its table."""

import argparse
import json
from typing import Any

import numpy as np
import pytest

from benchmarks.ranking import __main__ as command
from benchmarks.ranking import ensemble, frontier, leave_out, runs, table
from millirec.config import RankerRun, convert, read_toml
from millirec.frontier.config import FrontierConfig

DATA = {"kind": "movielens", "path": "somewhere"}


def every() -> argparse.Namespace:
    plan = {"fields": runs.names("fields"), "protocol": list(runs.PROTOCOLS), "only": runs.names("specs")}
    return argparse.Namespace(**plan, seeds=[1, 2], splits=[0, 3], threads=1)


def test_every_spec_is_a_run() -> None:
    for settings in command.planned(every()):
        run: RankerRun = convert(runs.sections_of(settings) | {"data": DATA}, RankerRun, settings.label)
        assert (run.label.positive_above, run.label.negative_below) == (3, 3)


def test_a_history_is_needed_for_attention_over_it() -> None:
    labels = [settings.label for settings in command.planned(every())]
    assert "history-global-time-din-1" in labels
    assert not [label for label in labels if "din" in label and "history" not in label]
    assert len(set(labels)) == len(labels)
    assert {"ids-random-rows-fm-2", "ids-random-rows-fm-2-split3"} <= set(labels)
    assert not [label for label in labels if "global-time" in label and "split" in label]


def test_a_split_is_drawn_by_its_own_seed() -> None:
    settings = runs.Settings(fields="ids", protocol="random-rows", ranker="fm", seed=1, split=3)
    assert runs.sections_of(settings)["split"]["seed"] == 3


def test_settings_can_depend_on_the_features() -> None:
    by_fields = {
        fields: runs.sections_of(runs.Settings(fields=fields, protocol="random-rows", ranker="dcnv2", seed=1))["train"]
        for fields in ("published", "ids")
    }
    assert by_fields["published"] != by_fields["ids"]


def result(protocol: str, seed: int, auc: float, ranker: str = "fm") -> dict[str, Any]:
    settings = runs.Settings(fields="published", protocol=protocol, ranker=ranker, seed=seed)
    figures = {
        "auc": {"value": auc, "low": auc - 0.01, "high": auc + 0.01},
        "log_loss": {"value": 0.4, "low": 0.39, "high": 0.41},
        "calibration_error": {"value": 0.002},
    }
    test = {"figures": figures, "uncalibrated": {"calibration_error": 0.01}}
    own = {"fields": "published", "protocol": protocol, "ranker": ranker, "seed": seed, "threads": 1}
    return own | {"config": runs.sections_of(settings), "test": test, "cpu_seconds": 120}


def test_the_table_sets_protocols_and_published_figures_side_by_side() -> None:
    results = [result("random-rows", 1, 0.82), result("random-rows", 2, 0.84), result("global-time", 1, 0.7)]
    lines = table.table([*results, result("random-rows", 1, 0.9, "lr")], "published").splitlines()
    assert lines[2].startswith("| lr | 0.9000 [0.8900, 0.9100] | 0.4000 [0.3900, 0.4100] | 0.0020 (0.0100) |  |")
    assert lines[3].startswith("| fm | 0.8300 ± 0.0141 (2) | 0.4000 ± 0.0000 (2) | 0.0020 (0.0100) | 0.7000 [0.69")
    assert lines[4] == "| *LR, published* | *0.7716* | *0.4424* |  |  |  |  |  |"
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize("change", [{"config": {}}, {"ranker": "gone"}])
def test_results_of_other_settings_are_left_out(change: dict[str, Any]) -> None:
    assert table.is_current(result("random-rows", 1, 0.8))
    assert not table.is_current(result("random-rows", 1, 0.8) | change)


def test_results_are_ordered_by_their_means() -> None:
    fm = [result("random-rows", 1, 0.80), result("random-rows", 2, 0.90)]
    other = [result("random-rows", 1, 0.84, "lr"), result("global-time", 1, 0.99, "dnn")]
    lines = table.table([*other, *fm], "ids").splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == ["| fm", "| lr", "| dnn"]


def test_members_are_added_while_they_add() -> None:
    """Two that err on different rows make a perfect third of them; one that knows nothing stays out."""
    labels = np.array([1, 1, 1, 0, 0, 0], np.int8)
    logits = {
        "noise": np.array([0.0, 0, 0, 0, 0, 0]),
        "one": np.array([3.0, 3, -1, 0, 0, 0]),
        "other": np.array([-1.0, 3, 3, 0, 0, 0]),
    }
    chosen, course = ensemble.selected(logits, labels)
    assert chosen == ["one", "other"]
    assert course == [pytest.approx(6 / 9), 1.0]


def test_groups_are_of_features_that_there_are() -> None:
    run: RankerRun = convert(leave_out.sections() | {"data": DATA}, RankerRun, "leave-out")
    names = {field.name for field in run.features}
    assert all(set(features) <= names for features in leave_out.SPEC["groups"].values())
    assert {name for features in leave_out.SPEC["groups"].values() for name in features} == names


def test_retrained_and_permuted_stand_side_by_side() -> None:
    figure = {"value": 0.01, "low": 0.005, "high": 0.015}
    group = {"name": "who", "features": ["a", "b"], "auc": figure, "aucs": [0.008, 0.012], "log_loss": figure}
    group |= {"p_value": 0.001, "useless": False}
    permuted = [{"name": name, "auc": auc} for name, auc in (("a", 0.02), ("b", 0.03), ("c", 0.5))]
    lines = leave_out.table({"report": {"features": permuted, "retrained": {"groups": [group]}}}).splitlines()
    assert lines[2] == (
        "| who | +0.0100 [+0.0050, +0.0150] | +0.0080, +0.0120 | +0.0100 [+0.0050, +0.0150] | 0.001 | +0.0500 |  |"
    )
    assert len({line.count("|") for line in lines}) == 1


def test_the_frontier_of_rankers_is_a_config_and_its_table_shows_all() -> None:
    config = convert(read_toml(runs.ROOT / frontier.CONFIG), FrontierConfig, frontier.CONFIG)
    shown = frontier.table(json.loads(frontier.RESULT.read_text()))
    assert len(shown.splitlines()) == 3 + len(config.variants)
    for variant in config.variants:
        assert f"| {variant.name}" in shown
