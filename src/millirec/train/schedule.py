"""The learning rate as a function of where a training stands, so that a resume needs no scheduler state."""

import math
from typing import Protocol


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
