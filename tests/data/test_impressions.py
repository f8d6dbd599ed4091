"""What was shown, joined to what came of it."""

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from millirec.cascade.query import Ranking
from millirec.config import RunConfig, convert
from millirec.data.dataset import CONTEXT, Dataset
from millirec.data.errors import ConfigError, DataError
from millirec.data.event import Event
from millirec.data.features import Facts, ranking_rows, split_rows
from millirec.data.features.config import CategoricalField, CounterField, NumericField, check_fields
from millirec.data.features.rows import RandomRows
from millirec.data.labels import LabelConfig, ValueTask, labels_of, tasks_of
from millirec.data.sources import ImpressionsConfig, read
from millirec.engine.impressions import Impression, ImpressionLog
from millirec.engine.state import StateStore, StoreSettings

HOUR = 3_600_000
LABEL = LabelConfig(positive_above=0)


def shown(folder: Path, *lists: tuple[str, int, tuple[str, ...], dict[str, Any]]) -> None:
    """Lists (request, time, items, more) as the server logs them."""
    log = ImpressionLog(folder / "impressions")
    for request, time, items, more in lists:
        drawn = more.pop("propensities", None)
        ranking = Ranking(
            items=items, scores=(1.0,) * len(items), source="sequence", request_id=request, propensities=drawn
        )
        assert log.note(Impression.of(ranking, None, ("m", "v"), time=time, **{"user": "ann", **more}))
    log.close()


def happened(folder: Path, *events: Event) -> None:
    with StateStore(folder, StoreSettings()) as store:
        store.append(list(events))


def event(item: str, time: int, request: str | None = None, action: str = "click", user: str = "ann") -> Event:
    context = None if request is None else {"request_id": request}
    return Event(user=user, item=item, time=time, action=action, context=context)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two lists; of the first b is clicked and liked, of the second nothing. At the end a list too new to be judged."""
    shown(
        tmp_path,
        ("r1", 1000, ("a", "b"), {"propensities": (0.5, 0.25), "context": {"page": "home"}}),
        ("r2", 2 * HOUR, ("b", "c"), {"user": None, "session": "s"}),
        ("r3", 30 * HOUR, ("a",), {"user": None}),
    )
    happened(
        tmp_path,
        event("z", 500),
        event("b", 61_000, "r1"),
        event("b", 62_000, "r1", "like"),
        event("c", 29 * HOUR, "r2"),  # a day too late
        event("a", 30 * HOUR + 5, "other"),  # of a list that nobody knows
        event("a", 1001, "r1", "impression"),  # told twice, and nothing came of it
    )
    return tmp_path


def rows_of(dataset: Dataset) -> list[tuple[Any, ...]]:
    log = dataset.interactions
    who, what = dataset.users.vocabulary, dataset.items.vocabulary
    assert log.values is not None
    assert log.shown is not None
    return [
        (who.id(int(u)), what.id(int(i)), int(t), None if math.isnan(v) else v, bool(s))
        for u, i, t, v, s in zip(log.users, log.items, log.times, log.values, log.shown, strict=True)
    ]


def test_a_row_an_item_shown_and_the_events_between_them(folder: Path) -> None:
    dataset = read(ImpressionsConfig(path=str(folder), actions=("click",), outcomes={"like": ("like",)}))
    assert rows_of(dataset) == [
        ("ann", "z", 500, 1.0, False),
        ("ann", "a", 1000, 0.0, True),
        ("ann", "b", 1000, 1.0, True),
        ("ann", "b", 61_000, 1.0, False),
        ("ann", "b", 62_000, None, False),  # no click
        ("session:s", "b", 2 * HOUR, 0.0, True),
        ("session:s", "c", 2 * HOUR, 0.0, True),
        ("ann", "c", 29 * HOUR, 1.0, False),
        ("request:r3", "a", 30 * HOUR, None, True),  # may yet be clicked
        ("ann", "a", 30 * HOUR + 5, 1.0, False),
    ]
    context = dataset.interactions.context
    told = dataset.interactions.shown
    assert context["position"][told].tolist() == [1, 2, 1, 2, 1]
    assert context["propensity"][told].tolist() == [0.5, 0.25, 1, 1, 1]
    assert context["page"].tolist() == [None, "home", "home", *[None] * 7]
    np.testing.assert_array_equal(context["like"][told], [0, 1, 0, 0, np.nan])
    task = LabelConfig(positive_above=0, tasks=(ValueTask(name="like", of="context.like", positive_above=0),))
    assert tasks_of(dataset, task)["like"][told].tolist() == [0, 1, 0, 0, -1]


def test_any_action_counts_where_none_is_named_and_the_window_can_be_longer(folder: Path) -> None:
    dataset = read(ImpressionsConfig(path=str(folder), within_hours=28))
    found = {(user, item): value for user, item, _, value, shown_ in rows_of(dataset) if shown_}
    assert found[("session:s", "c")] == 1.0
    assert found[("ann", "b")] == 1.0
    assert found[("ann", "a")] == 0.0


def test_what_was_shown_is_asked_and_what_was_done_is_known(folder: Path) -> None:
    """Only judged impressions are rows, and only events are counted, at their own times."""
    dataset = read(ImpressionsConfig(path=str(folder), actions=("click",)))
    labels = labels_of(dataset, LABEL)
    dataset = dataset.with_roles(np.where(dataset.interactions.shown, 0, CONTEXT).astype(np.uint8), "by hand")
    fields = (
        CounterField(name="n", by=("item",), what="events"),
        CounterField(name="p", by=("item",), what="positives"),
        NumericField(name="at", source="context.position"),
    )
    rows, featuriser = ranking_rows(dataset, labels, fields)
    assert rows.labels.tolist() == [0, 1, 0, 0]
    unscaled = [
        rows.features.numbers[:, i] * featuriser.learned[name].deviation + featuriser.learned[name].mean
        for i, name in enumerate(("n", "p", "at"))
    ]
    assert np.round(unscaled[0]).tolist() == [0, 0, 2, 0]  # b has been clicked and liked before the second list
    assert np.round(unscaled[1]).tolist() == [0, 0, 1, 0]
    assert np.round(unscaled[2]).tolist() == [1, 2, 1, 2]


def test_of_two_lines_of_one_request_the_last_counts(tmp_path: Path) -> None:
    shown(tmp_path, ("r", 1000, ("a", "b"), {}), ("r", 1500, ("b",), {}))
    happened(tmp_path, event("b", 2000, "r"))
    dataset = read(ImpressionsConfig(path=str(tmp_path)))
    assert rows_of(dataset) == [("ann", "b", 1500, 1.0, True), ("ann", "b", 2000, 1.0, False)]


def test_lines_that_are_no_impressions_are_told(folder: Path, tmp_path: Path) -> None:
    bad = folder / "impressions" / "9999999999999-1.jsonl"
    bad.write_bytes(b'{"request_id":"x","time":1,"items":["a"],"propensities":[]}\n{"half')
    config = ImpressionsConfig(path=str(folder))
    with pytest.raises(DataError, match="line 1: not a propensity for each item"):
        read(config)
    dataset = read(config, on_error="skip", rejected=tmp_path / "rejected.jsonl")
    assert dataset.rejected == 1
    bad.write_bytes(b"[]\n")
    with pytest.raises(DataError, match="no impression"):
        read(config)


def test_without_impressions_there_is_nothing_to_learn(tmp_path: Path) -> None:
    happened(tmp_path, event("a", 1))
    with pytest.raises(DataError, match="no impressions -> serve with --impressions"):
        read(ImpressionsConfig(path=str(tmp_path)))


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="within_hours = 0"):
        ImpressionsConfig(path="x", within_hours=0)
    with pytest.raises(ConfigError, match=r"outcomes names \['position'\]"):
        ImpressionsConfig(path="x", outcomes={"position": ("a",)})
    run = {"data": {"kind": "impressions", "path": "x"}, "model": {"kind": "popularity"}}
    with pytest.raises(ConfigError, match="what was shown is no history"):
        convert(run, RunConfig, "run")


def test_a_position_is_fixed_when_a_request_is_scored(folder: Path) -> None:
    dataset = read(ImpressionsConfig(path=str(folder)))
    dataset = dataset.with_roles(np.zeros(len(dataset.roles), np.uint8), "by hand")
    fields = (
        CategoricalField(name="at", source="context.position", fixed=1),
        NumericField(name="n", source="context.position", fixed=1),
    )
    rows, featuriser = ranking_rows(dataset, labels_of(dataset, LABEL), fields)
    first, second = (featuriser.learned["at"].values.index(place) + 1 for place in ("1", "2"))
    assert rows.features.ids[:, 0].tolist() == [first, second, first, second]
    two = np.array([1, 1])
    for context in ({}, {"position": np.array([2.0, 7.0])}):
        asked = featuriser.features(Facts(two, two, two, context))
        assert asked.ids[:, 0].tolist() == [first, first]
        assert asked.numbers[:, 0].tolist() == [rows.features.numbers[0, 0]] * 2


def test_a_source_is_fixed_in_all_features_or_in_none() -> None:
    at = CategoricalField(name="at", source="context.position", fixed=1)
    with pytest.raises(ConfigError, match=r"context\.position is fixed in some features"):
        check_fields([at, NumericField(name="n", source="context.position")])
    with pytest.raises(ConfigError, match=r"\$\.features\.a\.fixed: item\.year is no part of a request"):
        CategoricalField(name="a", source="item.year", fixed="1999")
    assert msgspec.json.decode(msgspec.json.encode(at), type=CategoricalField) == at


def test_random_rows_deal_out_what_was_shown_only(folder: Path) -> None:
    dataset = read(ImpressionsConfig(path=str(folder)))
    with pytest.raises(DataError, match="not both successes and failures"):  # four rows are too few
        split_rows(dataset, labels_of(dataset, LABEL), RandomRows(validation=0.25, test=0.25))
