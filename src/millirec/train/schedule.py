"""The learning rate as a function of where a training stands, so that a resume needs no scheduler state."""

import math
import time
from collections.abc import Iterable
from typing import Protocol

import torch

from millirec.data.errors import ConfigError


class Course(Protocol):
    """What a config says of its learning rate; see `TrainConfig`."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def schedule(self) -> str | None: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def decay_epochs(self) -> int: ...
    @property
    def final_share(self) -> float: ...
    @property
    def epochs(self) -> int: ...


class Limited(Course, Protocol):
    """And how long it may take."""

    @property
    def max_minutes(self) -> float | None: ...


class Clock:
    """The time that a training has taken, what it took before a resume among it."""

    def __init__(self, before: float, max_minutes: float | None) -> None:
        """`before` in seconds; no limit when `max_minutes` is None."""
        self._before, self._since, self._limit = before, time.monotonic(), max_minutes

    @property
    def seconds(self) -> float:
        """Until now."""
        return self._before + time.monotonic() - self._since

    @property
    def late(self) -> bool:
        """Whether the limit has passed."""
        return self._limit is not None and self.seconds > 60 * self._limit


def check_ranges(config: Limited, at_least_1: Iterable[str], at_least_0: Iterable[str]) -> None:
    """Raises ConfigError for a number of [train] out of its range."""
    for least, names in ((1, at_least_1), (0, at_least_0)):
        for name in names:
            if getattr(config, name) < least:
                raise ConfigError(f"$.train.{name} = {getattr(config, name)}", f"choose {least} or more")
    if config.learning_rate <= 0 or (config.max_minutes is not None and config.max_minutes <= 0):
        raise ConfigError("$.train: `learning_rate` and `max_minutes` must be above 0")
    if not 0 <= config.final_share <= 1:
        raise ConfigError(f"$.train.final_share = {config.final_share}", "choose a share from 0 to 1")
    if config.schedule == "constant" and config.decay_epochs:
        raise ConfigError(
            f"$.train.decay_epochs = {config.decay_epochs} with a constant schedule",
            "leave one of the two out, or choose $.train.schedule = 'cosine' or 'linear'",
        )


def set_learning_rate(optimizer: torch.optim.Optimizer, config: Course, updates: int, epochs: float) -> None:
    """The rate of `learning_rate` for all parameters."""
    rate = learning_rate(config, updates, epochs)
    for group in optimizer.param_groups:
        group["lr"] = rate


def learning_rate(config: Course, updates: int, epochs: float) -> float:
    """The rate of the next step, after `updates` steps and `epochs` epochs, the last of them perhaps in part."""
    rate = config.learning_rate
    if config.warmup_steps:
        rate *= min(1.0, (updates + 1) / config.warmup_steps)
    return rate * _decay(config, epochs)


def _decay(config: Course, epochs: float) -> float:
    kind = config.schedule or ("cosine" if config.decay_epochs else "constant")
    if kind == "constant":
        return 1.0
    share = min(1.0, epochs / (config.decay_epochs or config.epochs))
    left = 1 - share if kind == "linear" else (1 + math.cos(math.pi * share)) / 2
    return config.final_share + (1 - config.final_share) * left
