"""`LabelConfig`: which events were a success, for a ranker to learn from; and other outcomes of the same rows."""

import re
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.dataset import Dataset
from millirec.data.errors import ConfigError, DataError

POSITIVE, NEGATIVE, UNLABELLED = 1, 0, -1
"""Labels of events."""
MAIN = "success"
"""The name of the label itself among the tasks."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


class _Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every further outcome has: a `name`."""

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name == MAIN:
            raise ConfigError(
                f"$.label.tasks: name = {self.name!r}",
                f"use letters, digits, '_' and '-'; {MAIN!r} is the label itself",
            )


class ValueTask(_Task, frozen=True, kw_only=True, tag="value"):
    """By a number of the event: its value, or `of` = "context.NAME" what its context says. As in `LabelConfig`."""

    positive_above: float
    negative_below: float | None = None
    of: str = "value"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.of != "value" and not self.of.startswith("context."):
            raise ConfigError(f"$.label.tasks.{self.name}.of = {self.of!r}", "use value, or context.NAME")
        _check_apart(self.positive_above, self.negative_below, f"$.label.tasks.{self.name}")


class NextTask(_Task, frozen=True, kw_only=True, tag="next"):
    """By when the same user's next event comes: a success from `after_seconds` to `within_seconds` later.

    Such as "goes on within the hour", or "stays for 30 seconds and comes back". Not known, and not learned, where the
    log ends before.
    """

    within_seconds: float
    after_seconds: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.after_seconds < self.within_seconds:
            raise ConfigError(
                f"$.label.tasks.{self.name}: from {self.after_seconds:g} to {self.within_seconds:g} seconds is no time",
                "choose within_seconds above after_seconds",
            )


TaskConfig = ValueTask | NextTask


class LabelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By the value of an event, such as a rating, or 1 for a click and 0 for a row that was only shown.

    Above `positive_above` is a success, below `negative_below` a failure (left out: all that is no success); events
    between the two, and those without a value, are only history. `tasks`: what else is asked of the same rows.
    """

    positive_above: float
    negative_below: float | None = None
    tasks: tuple[TaskConfig, ...] = ()

    def __post_init__(self) -> None:
        _check_apart(self.positive_above, self.negative_below, "$.label")
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise ConfigError(f"$.label.tasks: names {names}", "give each a name of its own")

    @property
    def names(self) -> tuple[str, ...]:
        """Of all outcomes, the label itself first."""
        return (MAIN, *(task.name for task in self.tasks))


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
    return _by_value(values, config, dataset.name, "$.label")


def tasks_of(dataset: Dataset, config: LabelConfig) -> Mapping[str, NDArray[np.int8]]:
    """The label of each event for each further task, by name. Raises DataError as `labels_of` does."""
    return {task.name: _task(dataset, task) for task in config.tasks}


def _task(dataset: Dataset, task: TaskConfig) -> NDArray[np.int8]:
    at = f"$.label.tasks.{task.name}"
    if isinstance(task, NextTask):
        return _checked(_by_next(dataset, task), dataset.name, at)
    log, name = dataset.interactions, task.of.removeprefix("context.")
    values = log.values if task.of == "value" else log.context.get(name)
    if values is None:
        raise DataError(f"{dataset.name}: events have no {task.of}", f"log it, or leave {at} out")
    return _by_value(values, task, dataset.name, at)


def _by_value(values: NDArray[np.float32], config: LabelConfig | ValueTask, log: str, at: str) -> NDArray[np.int8]:
    positive = values > config.positive_above
    below = config.negative_below
    negative = ~positive & ~np.isnan(values) if below is None else values < below
    labels = np.where(positive, POSITIVE, np.where(negative, NEGATIVE, UNLABELLED)).astype(np.int8)
    return _checked(labels, log, at)


def _by_next(dataset: Dataset, task: NextTask) -> NDArray[np.int8]:
    ordered = dataset.sequences
    gaps = np.full(len(ordered.times), np.inf)
    follows = ordered.users[1:] == ordered.users[:-1]
    gaps[:-1][follows] = (ordered.times[1:] - ordered.times[:-1])[follows] / 1000
    known = np.isfinite(gaps) | (ordered.times + task.within_seconds * 1000 <= ordered.times.max(initial=0))
    positive = (gaps >= task.after_seconds) & (gaps <= task.within_seconds)
    out = np.empty(len(gaps), np.int8)
    out[ordered.order] = np.where(positive, POSITIVE, np.where(known, NEGATIVE, UNLABELLED))
    return out


def _checked(labels: NDArray[np.int8], log: str, at: str) -> NDArray[np.int8]:
    for name, label in (("success", POSITIVE), ("failure", NEGATIVE)):
        if not (labels == label).any():
            raise DataError(f"{log}: no event is a {name}", f"check {at} against the log")
    return labels


def _check_apart(above: float, below: float | None, at: str) -> None:
    if below is not None and below > above:
        raise ConfigError(
            f"{at}.negative_below = {below:g} lies above positive_above, so events would be both",
            f"choose {above:g} or less",
        )
