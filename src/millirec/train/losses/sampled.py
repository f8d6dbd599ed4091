"""`Sampled`: the fields of every loss that compares the target with some items instead of with all."""

from typing import get_args

import msgspec

from millirec.data.errors import ConfigError
from millirec.train.negatives import Sampling


class Sampled(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`negatives` items are drawn anew for each batch and shared by it, or for each target when `per_row`.

    `sampling`: "uniform"; "popularity", in proportion to count ** `power`; "in-batch", from the targets of the batch;
    "adaptive", those of `pool` uniform candidates that the model now scores highest, for the batch or for each
    target (Zhang et al., "Optimizing Top-N Collaborative Filtering via Dynamic Negative Item Sampling", SIGIR
    2013). `pool` = 0 stands for 8 candidates a negative.

    Sharing makes a matrix product of what is otherwise a gather of N x negatives vectors, and is many times faster.
    """

    negatives: int = 512
    sampling: str = "uniform"
    power: float = 0.5
    pool: int = 0
    per_row: bool = False

    def __post_init__(self) -> None:
        if self.negatives < 1:
            raise ConfigError(f"$.train.loss.negatives = {self.negatives}", "draw at least 1")
        if self.sampling not in get_args(Sampling):
            names = ", ".join(repr(name) for name in get_args(Sampling))
            raise ConfigError(f"$.train.loss.sampling = {self.sampling!r}", f"use one of {names}")
        if self.power < 0:
            raise ConfigError(f"$.train.loss.power = {self.power}", "choose 0 (uniform) or more")
        if self.pool and self.sampling != "adaptive":
            raise ConfigError(f"$.train.loss.pool = {self.pool}", "leave it out, or set sampling = 'adaptive'")
        if self.pool and self.pool < self.negatives:
            raise ConfigError(
                f"$.train.loss.pool = {self.pool} holds fewer than $.train.loss.negatives = {self.negatives}",
                "draw more candidates, or leave it out",
            )
        if self.per_row and self.sampling == "in-batch":
            raise ConfigError("$.train.loss.per_row: a batch's targets are shared by it", "leave it out")

    @property
    def candidates(self) -> int:
        """How many items are drawn, before an adaptive sampler keeps the best of them."""
        return (self.pool or 8 * self.negatives) if self.sampling == "adaptive" else self.negatives
