"""What each feature adds: planted ones are found, others can go."""

from typing import Any

import numpy as np
import pytest

from millirec.data.dataset import TEST
from millirec.data.errors import DataError
from millirec.data.features import Features, Ragged, Schema
from millirec.data.features.config import CategoricalField, ClockField, GapField, MultiValuedField, SequenceField
from millirec.data.features.schema import ListSpace, SequenceSpace, Space
from millirec.metrics import ctr
from millirec.models.rankers.fm import FMConfig
from millirec.models.rankers.trees import TreesConfig
from millirec.train.feature_report import feature_report, gains_of, permuted
from millirec.train.fit_ranker import fit_ranker
from millirec.train.journal import Silent
from tests.contracts.test_rankers import plan, prepared

# The rule of the log hangs on user and item together; tags and the hour of the day say nothing.
FIELDS = (
    CategoricalField(name="user", source="user"),
    CategoricalField(name="item", source="item"),
    MultiValuedField(name="tags", source="item.tags"),
    ClockField(name="hour", part="hour"),
    GapField(name="gap"),
    SequenceField(name="seen", of="item", length=3),
)


@pytest.fixture(scope="module", params=[FMConfig(), TreesConfig()], ids=["fm", "trees"])
def fitted(request: pytest.FixtureRequest) -> Any:
    return fit_ranker(prepared(), plan(request.param, FIELDS), Silent())


def test_what_the_rule_hangs_on_adds_most(fitted: Any) -> None:
    report = feature_report(*fitted, TEST)
    worth = {own.name: own for own in report.features}
    assert {own.name for own in report.features[:2]} == {"user", "item"}
    assert worth["user"].auc > 0.2
    assert worth["user"].log_loss.low > 0
    assert worth["user"].p_value < 0.05
    assert abs(worth["hour"].auc) < 0.1
    assert sum(own.share for own in report.features) == pytest.approx(1)
    part = fitted[1].part(TEST)
    chances = fitted[0].chances(fitted[1].features.take(part))
    assert (report.auc, report.n_rows) == (ctr.auc(fitted[1].labels[part], chances), len(part))


def test_only_trees_have_gains(fitted: Any) -> None:
    gains = gains_of(fitted[0])
    if not isinstance(fitted[0].config, TreesConfig):
        assert gains == {}
        return
    assert set(gains) == {field.name for field in FIELDS}
    assert sum(gains.values()) == pytest.approx(1)
    assert gains["user"] > 0.2 > gains["hour"]


def test_a_high_threshold_calls_all_useless(fitted: Any) -> None:
    strict = feature_report(*fitted, TEST, repeats=1, threshold=10)
    assert strict.useful == ()
    generous = feature_report(*fitted, TEST, repeats=1, threshold=0.05)
    assert {"user", "item"} <= set(generous.useful)
    assert "hour" not in generous.useful


def test_a_part_without_rows_is_refused(fitted: Any) -> None:
    with pytest.raises(DataError, match="no rows"):
        feature_report(*fitted, 9)


def test_one_feature_moves_and_the_others_stay() -> None:
    schema = Schema(
        categorical=(Space(name="a", size=9), Space(name="b", size=9)),
        lists=(ListSpace(name="tags", size=9, width=2),),
        numbers=("x",),
        sequences=(SequenceSpace(name="seen", length=3, of=0),),
    )
    ragged = Ragged(np.arange(1, 4, dtype=np.int32), np.arange(3), np.arange(3) + 1)
    ids = np.array([[1, 4], [2, 5], [3, 6]], np.int32)
    rows = Features(ids, np.array([[1], [2], [3]], np.float32), (ragged,), (ragged,))
    order = np.array([2, 0, 1])

    def columns(own: Features) -> dict[str, list[int]]:
        lists = {name: kind[0].packed()[1].tolist() for name, kind in (("tags", own.lists), ("seen", own.sequences))}
        return {"a": own.ids[:, 0].tolist(), "b": own.ids[:, 1].tolist(), "x": own.numbers[:, 0].tolist()} | lists

    before = columns(rows)
    for name in before:
        after = columns(permuted(rows, schema, name, order))
        assert after == before | {name: [before[name][i] for i in order]}
    assert columns(rows) == before
    with pytest.raises(KeyError):
        permuted(rows, schema, "c", order)
