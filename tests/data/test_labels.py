"""What a success is."""

import numpy as np
import pytest

from millirec.data.dataset import Dataset
from millirec.data.errors import ConfigError, DataError
from millirec.data.labels import LabelConfig, labels_of
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
