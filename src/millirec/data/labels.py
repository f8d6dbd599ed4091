"""`LabelConfig`: which events were a success, for a ranker to learn from."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.dataset import Dataset
from millirec.data.errors import ConfigError, DataError

POSITIVE, NEGATIVE, UNLABELLED = 1, 0, -1
"""Labels of events."""


class LabelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By the value of an event, such as a rating, or 1 for a click and 0 for a row that was only shown.

    Above `positive_above` is a success, below `negative_below` a failure (left out: all that is no success); events
    between the two, and those without a value, are only history.
    """

    positive_above: float
    negative_below: float | None = None

    def __post_init__(self) -> None:
        if self.negative_below is not None and self.negative_below > self.positive_above:
            raise ConfigError(
                f"$.label.negative_below = {self.negative_below:g} lies above positive_above, so events would be both",
                f"choose {self.positive_above:g} or less",
            )


def label_of(value: float | None, config: LabelConfig) -> int:
    """The label of one event, as `labels_of` gives it."""
    if value is None or value != value:
        return UNLABELLED
    rounded = np.float32(value)  # as a log's column holds it
    if rounded > config.positive_above:
        return POSITIVE
    below = config.negative_below
    return NEGATIVE if below is None or rounded < below else UNLABELLED


def labels_of(dataset: Dataset, config: LabelConfig) -> NDArray[np.int8]:
    """POSITIVE, NEGATIVE or UNLABELLED for each event of the log, int8 (n,).

    Raises DataError when the log has no values, or when a label is missing: there is nothing to tell apart then.
    """
    values = dataset.interactions.values
    if values is None:
        raise DataError(f"{dataset.name}: events have no values, so none is a failure", "name the column of values")
    positive = values > config.positive_above
    below = config.negative_below
    negative = ~positive & ~np.isnan(values) if below is None else values < below
    for name, found in (("success", positive), ("failure", negative)):
        if not found.any():
            raise DataError(f"{dataset.name}: no event is a {name}", "check $.label against the values of the log")
    return np.where(positive, POSITIVE, np.where(negative, NEGATIVE, UNLABELLED)).astype(np.int8)
