"""A search on a small teacher: real trainings, bundles, replays and servers."""

from pathlib import Path
from typing import Any

import msgspec
import optuna
import pytest

from millirec.compress.workshop import Workshop
from millirec.data.errors import ConfigError
from millirec.frontier.check import check_variant
from millirec.frontier.config import FrontierConfig, Limits, Variant
from millirec.frontier.pace import Nobody
from millirec.frontier.search import Search, Searched
from millirec.frontier.study import search
from millirec.train.machine import Machine
from tests.frontier.laboratories import MODEL, QUICK, taught

TRAINED = {
    "steps": [
        {
            "kind": "train",
            "model": msgspec.to_builtins(MODEL) | {"embedding_dim": {"choose": [4, 16]}},
            "train": {"epochs": 2, "batch_size": 8, "learning_rate": {"low": 1e-5, "high": 0.05, "log": True}},
        }
    ]
}


def config(folder: Path, variant: dict[str, Any], limits: Limits | None = None, **settings: Any) -> FrontierConfig:
    sought = Search(variant=variant, **settings)
    return FrontierConfig(teacher="unread", out=str(folder), measure=QUICK, search=sought, limits=limits or Limits())


def sought(settings: FrontierConfig) -> tuple[Searched, tuple[Variant, ...]]:
    teacher, dataset = taught()

    def check(variant: Variant) -> None:
        check_variant(variant, settings, teacher.config, dataset, repeats=False)

    return search(settings, teacher, Workshop(lambda: dataset, Machine(threads=1)), Nobody(), check)


def test_the_best_comes_first_and_a_second_call_goes_on(tmp_path: Path) -> None:
    found, variants = sought(config(tmp_path, TRAINED, trials=4, finalists=2))
    complete = {trial.number: trial.figures["quality"] for trial in found.trials if trial.state == "complete"}
    assert len(found.trials) == 4
    assert complete[found.finalists[0]] == max(complete.values())
    assert [variant.name for variant in variants] == [f"trial-{number}" for number in found.finalists]
    step = msgspec.to_builtins(variants[0])["steps"][0]
    drawn = found.trials[found.finalists[0]].settings
    assert step["train"]["learning_rate"] == drawn["steps[0].train.learning_rate"]
    assert step["model"]["embedding_dim"] == drawn["steps[0].model.embedding_dim"]
    assert "p99_ms" not in found.trials[0].figures  # nothing asked for it, and no server was started

    again, _ = sought(config(tmp_path, TRAINED, trials=6, finalists=2))
    assert again.trials[:4] == found.trials
    assert len(again.trials) == 6
    rates = [trial.settings["steps[0].train.learning_rate"] for trial in again.trials]
    assert len(set(rates)) == 6  # a search that goes on draws other numbers


def test_a_trial_that_was_killed_is_tried_again(tmp_path: Path) -> None:
    settings = config(tmp_path, TRAINED, trials=1)
    sought(settings)
    (journal,) = (tmp_path / "frontier" / "cache" / "studies").glob("*.journal")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    study = optuna.load_study(study_name=journal.stem, storage=storage)
    killed = study.ask()  # never told of an end
    killed.suggest_categorical("steps[0].model.embedding_dim", [4, 16])
    rate = killed.suggest_float("steps[0].train.learning_rate", 1e-5, 0.05, log=True)
    found, _ = sought(config(tmp_path, TRAINED, trials=2))
    assert [trial.settings["steps[0].train.learning_rate"] for trial in found.trials][1] == rate
    assert len(found.trials) == 2


def test_a_limit_that_is_missed_ends_a_trial_before_it_is_loaded(tmp_path: Path) -> None:
    variant = {"engine": {"max_batch": {"choose": [8, 16]}}}
    limits = Limits(max_bundle_mb=0.001, max_p99_ms=1000)
    found, variants = sought(config(tmp_path, variant, limits, trials=2, objectives=("p99_ms",)))
    assert {trial.state for trial in found.trials} == {"pruned"}
    assert all(trial.misses["max_bundle_mb"] > 0 and "p99_ms" not in trial.figures for trial in found.trials)
    assert "max_bundle_mb is missed by" in found.trials[0].note
    assert variants == ()
    assert not list((tmp_path / "frontier" / "cache").glob("visits/*"))


def test_speed_is_measured_where_it_is_sought(tmp_path: Path) -> None:
    variant = {"engine": {"max_batch": {"choose": [8, 16]}}}
    found, variants = sought(config(tmp_path, variant, trials=2, objectives=("quality", "requests_per_second")))
    assert all(trial.figures["requests_per_second"] > 0 for trial in found.trials)
    assert 1 <= len(variants) <= 2


def test_settings_that_do_not_go_together_are_refused_one_by_one_then_the_space(tmp_path: Path) -> None:
    variant = {"steps": [{"kind": "quantize", "table_bits": {"choose": [3, 4]}}]}
    found, _ = sought(config(tmp_path, variant, trials=4, seed=2))
    assert {trial.state for trial in found.trials} == {"complete", "refused"}
    assert all(("table_bits" in trial.note) == (trial.state == "refused") for trial in found.trials)
    nothing = {"steps": [{"kind": "quantize", "table_bits": {"choose": [3, 5, 7]}}]}
    with pytest.raises(ConfigError) as refused:
        sought(config(tmp_path, nothing, trials=30))
    assert "10 trials, all refused" in refused.value.problem


def test_a_training_that_falls_behind_is_ended(tmp_path: Path) -> None:
    rates = [0.02, 0.021, 0.022, 0.023, 0.024, 0.025, 1e-7, 2e-7, 3e-7]  # equal ones would be trained once
    train = {"epochs": 3, "batch_size": 8, "learning_rate": {"choose": rates}}
    variant = {"steps": [{"kind": "train", "train": train}]}
    found, _ = sought(config(tmp_path, variant, trials=20, seed=1))
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert pruned
    assert "median" in pruned[0].note
    assert pruned[0].figures == {}
    assert max(trial.figures.get("quality", 0) for trial in found.trials) == max(
        found.trials[number].figures["quality"] for number in found.finalists
    )
    assert not list((tmp_path / "frontier" / "cache").glob("steps/*/progress"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"trials": 0}, "$.search.trials"),
        ({"minutes": 0}, "$.search.minutes"),
        ({"objectives": ()}, "$.search.objectives"),
        ({"objectives": ("quality", "quality")}, "$.search.objectives"),
        ({"variant": {"name": "x", "engine": {"max_batch": {"choose": [1]}}}}, "$.search.variant.name"),
        ({"variant": {}}, "leaves nothing open"),
    ],
)
def test_a_search_that_cannot_work_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Search(**{"variant": TRAINED, **settings})
    assert words in refused.value.problem
