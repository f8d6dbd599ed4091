"""What a success is."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from millirec.data.dataset import Dataset
from millirec.data.errors import ConfigError, DataError
from millirec.data.labels import LabelConfig, NextTask, ValueTask, labels_of, tasks_of
from tests.data.features.world import dataset_of
from tests.logs import checkerboard


def rated(*values: float) -> Dataset:
    return dataset_of([(1, 1, i, value) for i, value in enumerate(values)])


def test_between_the_two_bounds_events_are_only_history() -> None:
    config = LabelConfig(positive_above=3, negative_below=3)
    assert labels_of(rated(1, 2.5, 3, 3.5, 5, np.nan), config).tolist() == [0, 0, -1, 1, 1, -1]


def test_without_a_lower_bound_all_else_is_a_failure() -> None:
    assert labels_of(rated(0, 1, np.nan), LabelConfig(positive_above=0)).tolist() == [0, 1, -1]


def test_bounds_that_cross_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\$\.label\.negative_below = 4"):
        LabelConfig(positive_above=3, negative_below=4)


def test_a_log_without_values_or_of_one_label_is_refused() -> None:
    with pytest.raises(DataError, match="have no values"):
        labels_of(checkerboard(), LabelConfig(positive_above=0))
    with pytest.raises(DataError, match="no event is a success"):
        labels_of(rated(1, 2), LabelConfig(positive_above=5))
    with pytest.raises(DataError, match="no event is a failure"):
        labels_of(rated(1, 2), LabelConfig(positive_above=0))


def test_further_outcomes_of_the_same_events() -> None:
    five = ValueTask(name="five", positive_above=4, negative_below=4)
    config = LabelConfig(positive_above=3, tasks=(five,))
    assert config.names == ("success", "five")
    assert tasks_of(rated(1, 4, 5, np.nan), config)["five"].tolist() == [0, -1, 1, -1]


def test_an_outcome_can_be_told_by_the_context() -> None:
    data = rated(0, 1, 1)
    liked = replace(data.interactions, context={"like": np.array([0, 1, np.nan])})
    config = LabelConfig(positive_above=0, tasks=(ValueTask(name="like", of="context.like", positive_above=0),))
    assert tasks_of(replace(data, interactions=liked), config)["like"].tolist() == [0, 1, -1]
    with pytest.raises(DataError, match=r"events have no context\.like -> log it, or leave \$\.label\.tasks\.like out"):
        tasks_of(data, config)


def test_who_goes_on_and_when() -> None:
    """User 1 acts at 0, 10 and 100 s, user 2 at 50 s (in the middle of the file); the log ends at 100 s."""
    events = [(1, 1, 0, 1.0), (2, 1, 50_000, 1.0), (1, 2, 10_000, 1.0), (1, 3, 100_000, 1.0)]
    data = dataset_of(events)

    def next_(**settings: float) -> list[int]:
        task = NextTask(name="on", **settings)
        return tasks_of(data, LabelConfig(positive_above=0, tasks=(task,)))["on"].tolist()

    assert next_(within_seconds=20) == [1, 0, 0, -1]  # user 2 had 50 s to go on; the last event none
    assert next_(within_seconds=60) == [1, -1, 0, -1]  # user 2 may still
    assert next_(within_seconds=95, after_seconds=30) == [0, -1, 1, -1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "success"}, "'success' is the label itself"),
        ({"name": "a", "of": "rating"}, "tasks.a.of = 'rating'"),
        ({"name": "a", "negative_below": 9}, "negative_below = 9"),
    ],
)
def test_tasks_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ValueTask(positive_above=3, **settings)


def test_times_that_cannot_be_and_names_that_stand_twice_are_refused() -> None:
    with pytest.raises(ConfigError, match="from 9 to 3 seconds"):
        NextTask(name="a", after_seconds=9, within_seconds=3)
    task = NextTask(name="a", within_seconds=3)
    with pytest.raises(ConfigError, match="a name of its own"):
        LabelConfig(positive_above=0, tasks=(task, task))
