"""What a ranker loses without a feature: planted ones are missed, twins and noise are not."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from millirec.data.dataset import TEST
from millirec.data.errors import ConfigError, DataError
from millirec.data.features.config import CategoricalField, ClockField, MultiValuedField, SequenceField
from millirec.data.lineage import Step
from millirec.metrics import ctr
from millirec.models.rankers.din import DINConfig
from millirec.models.rankers.fm import FMConfig
from millirec.models.rankers.trees import TreesConfig
from millirec.train.feature_report import feature_report
from millirec.train.feature_retraining import Retraining, groups_of, retraining_report
from millirec.train.fit_ranker import fit_ranker
from millirec.train.journal import Silent
from tests.contracts.test_rankers import plan, prepared

# The rule of the log hangs on user and item together; the hour says nothing, and the twin what the item says.
FIELDS = (
    CategoricalField(name="user", source="user"),
    CategoricalField(name="item", source="item"),
    CategoricalField(name="twin", source="item"),
    MultiValuedField(name="tags", source="item.tags"),
    ClockField(name="hour", part="hour"),
)
SEQUENCES = (SequenceField(name="seen", of="item", length=3), SequenceField(name="liked", of="twin", length=3))


@pytest.fixture(scope="module")
def fitted() -> Any:
    return fit_ranker(prepared(), plan(FMConfig(), FIELDS), Silent())


@pytest.fixture(scope="module")
def told() -> list[Retraining]:
    return []


@pytest.fixture(scope="module")
def report(fitted: Any, told: list[Retraining]) -> Any:
    named = {"person": ("user",), "item": ("item",), "both": ("item", "twin"), "hour": ("hour",)}
    return retraining_report(*fitted, groups_of(fitted[0], named), TEST, threshold=0.01, told=told.append)


def test_what_others_say_too_can_go_and_what_none_says_cannot(fitted: Any, report: Any) -> None:
    worth = {group.name: group for group in report.groups}
    assert worth["person"].auc.value > 0.2
    assert worth["both"].auc.value > 0.2
    assert worth["both"].auc.low > 0
    assert worth["both"].p_value < 0.05
    assert not worth["both"].useless
    assert abs(worth["item"].auc.value) < 0.05
    assert {name for name, group in worth.items() if group.useless} >= {"item"}
    permuted = {own.name: own.auc for own in feature_report(*fitted, TEST).features}
    assert permuted["item"] > 0.05 > worth["item"].auc.value  # permutation does not see the twin


def test_differences_are_those_of_rankers_trained_apart(fitted: Any, report: Any) -> None:
    """Seed by seed, the checkpoint among them; intervals hold what they are of."""
    labels = fitted[1].labels[fitted[1].part(TEST)]
    aucs: dict[str, list[float]] = {}
    for name, fields in {"all": FIELDS, "person": FIELDS[1:]}.items():
        for seed in report.seeds:
            checkpoint, rows = fit_ranker(prepared(), plan(FMConfig(), fields, seed=seed), Silent())
            aucs.setdefault(name, []).append(ctr.auc(labels, checkpoint.chances(rows.features.take(rows.part(TEST)))))
    person = next(group for group in report.groups if group.name == "person")
    assert report.seeds == (42, 43)
    assert report.auc == pytest.approx(np.mean(aucs["all"]))
    assert person.aucs == pytest.approx(np.array(aucs["all"]) - np.array(aucs["person"]))
    assert person.auc.value == pytest.approx(np.mean(person.aucs))
    assert person.auc.low < person.auc.value < person.auc.high
    assert person.log_loss.low < person.log_loss.value < person.log_loss.high
    assert report.n_rows == len(labels)


def test_who_waits_is_told_of_every_training(report: Any, told: list[Retraining]) -> None:
    assert [done.done for done in told] == list(range(1, 10))
    assert {done.trainings for done in told} == {9}
    assert [(done.group, done.seed) for done in told[:3]] == [("", 43), ("person", 42), ("person", 43)]
    seconds = [done.seconds for done in told]
    assert seconds == sorted(seconds)
    assert all(0 < done.auc <= 1 for done in told)


def test_each_feature_is_a_group_unless_they_are_named(fitted: Any) -> None:
    checkpoint, _ = fit_ranker(prepared(300), plan(FMConfig(), FIELDS + SEQUENCES, epochs=1), Silent())
    groups = groups_of(checkpoint)
    assert groups == {name: (name,) for name in ("user", "tags", "hour", "seen", "liked")} | {
        "item": ("item", "seen"),
        "twin": ("twin", "liked"),
    }
    assert groups_of(checkpoint, {"a": ("hour", "user")}) == {"a": ("user", "hour")}
    for named, message in (
        ({"a": ("our",)}, r"no features \['our'\]"),
        ({"a": ()}, "no features"),
        ({"a": tuple(field.name for field in FIELDS)}, "nothing to read"),
    ):
        with pytest.raises(ConfigError, match=message):
            groups_of(checkpoint, named)


def test_an_attention_keeps_a_sequence() -> None:
    one, _ = fit_ranker(prepared(300), plan(DINConfig(), FIELDS + SEQUENCES[:1], epochs=1), Silent())
    assert set(groups_of(one)) == {"user", "twin", "tags", "hour"}
    with pytest.raises(ConfigError, match="nothing to read"):
        groups_of(one, {"a": ("item",)})


def test_a_single_feature_cannot_go() -> None:
    one, _ = fit_ranker(prepared(300), plan(FMConfig(), FIELDS[:1], epochs=1), Silent())
    with pytest.raises(ConfigError, match="nothing to read without 'user'"):
        groups_of(one)


def test_sequences_find_their_vectors_when_features_before_them_go() -> None:
    checkpoint, rows = fit_ranker(prepared(300), plan(DINConfig(), FIELDS + SEQUENCES[1:], epochs=1), Silent())
    report = retraining_report(checkpoint, rows, {"a": ("user", "item")}, TEST, seeds=1)
    expected, kept = fit_ranker(prepared(300), plan(DINConfig(), FIELDS[2:] + SEQUENCES[1:], epochs=1), Silent())
    part = rows.part(TEST)
    without = ctr.auc(rows.labels[part], expected.chances(kept.features.take(part)))
    assert report.auc - report.groups[0].auc.value == pytest.approx(without)


def test_trees_are_grown_again() -> None:
    checkpoint, rows = fit_ranker(prepared(), plan(TreesConfig(), FIELDS), Silent())
    report = retraining_report(checkpoint, rows, {"person": ("user",)}, TEST, seeds=1)
    assert report.groups[0].auc.value > 0.2


def test_what_cannot_be_measured_is_refused(fitted: Any) -> None:
    checkpoint, rows = fitted
    with pytest.raises(DataError, match="no rows"):
        retraining_report(checkpoint, rows, {"hour": ("hour",)}, 9)
    lineage = (*checkpoint.lineage, Step(name="quantize", settings={}))
    with pytest.raises(ConfigError, match="compressed"):
        groups_of(replace(checkpoint, lineage=lineage))


def test_a_report_is_json(report: Any) -> None:
    assert msgspec.json.decode(msgspec.json.encode(report))["groups"][0]["auc"]["low"] > 0
