"""Early exit: a ranker that scores block by block, and stops when what is left would hardly reach the best."""

import math
import threading
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.cascade.query import Retrieved
from millirec.data.errors import ConfigError

if TYPE_CHECKING:
    from millirec.cascade.scorers import RowScorer, Scored

_SPARE = 4  # lists remembered, as a multiple of the fewest that give a bound


class EarlyExit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a ranker may stop: behind each `block` candidates, if the best of all stay the best with `confidence`.

    `audit`: one question of so many is scored whole, drawn at random; from these it learns what may be expected.
    """

    block: int = 50
    confidence: float = 0.99
    audit: int = 16

    def __post_init__(self) -> None:
        where = '$.cascade.scorers ("ranker").early_exit'
        if self.block < 1:
            raise ConfigError(f"{where}: block = {self.block}", "choose 1 or more")
        if not 0.5 <= self.confidence <= 0.999:
            raise ConfigError(f"{where}: confidence = {self.confidence:g}", "choose 0.5 to 0.999")
        if self.audit < 2:
            raise ConfigError(f"{where}: audit = {self.audit}", "choose 2 or more")


class Bounds:
    """How much better than the newest block the rest of a list may be; thread-safe, learned while serving.

    For each place where scoring may stop it keeps, of the lists scored whole of late, the best logit behind the place
    less the best of the block before it. An upper quantile of these, added to the best of the newest block, is a bound
    that the rest of a list stays under: split conformal prediction (Lei et al., "Distribution-Free Predictive Inference
    for Regression", JASA 2018), which assumes only that questions are exchangeable. The places share the chance of an
    error evenly, so that of all answers at most 1 - `confidence` are expected to change.
    """

    def __init__(self, config: EarlyExit, candidates: int) -> None:
        self.candidates = candidates
        self.ends = tuple(range(config.block, candidates, config.block))
        self._error = (1 - config.confidence) / len(self.ends)
        self._audit, self._random = config.audit, Random(0)  # noqa: S311 - no secret
        self._gaps = np.empty((math.ceil(_SPARE / self._error), len(self.ends)), np.float32)
        self._n = 0
        self._bounds: NDArray[np.float32] | None = None
        self._lock = threading.Lock()

    def is_audit(self) -> bool:
        """Whether the next list is to be scored whole: each one at first, then one of `audit`."""
        return self._bounds is None or self._random.random() * self._audit < 1

    def learn(self, logits: NDArray[np.float32]) -> None:
        """Take in a list that was scored whole: logits (candidates,) in the order in which it came."""
        if not np.isfinite(logits).all():
            return
        ends = np.array(self.ends)
        rest = np.maximum.accumulate(logits[::-1])[::-1][ends]
        newest = np.maximum.reduceat(logits, [0, *self.ends])[:-1]
        with self._lock:
            self._gaps[self._n % len(self._gaps)] = rest - newest
            self._n += 1
            n = min(self._n, len(self._gaps))
            place = math.ceil((n + 1) * (1 - self._error) - 1e-9)
            if place <= n:
                self._bounds = np.partition(self._gaps[:n], place - 1, axis=0)[place - 1]

    def is_done(self, at: int, logits: NDArray[np.float32], k: int) -> bool:
        """Whether the k best of `logits` (n,), those before the place `ends[at]`, would stay the best."""
        if self._bounds is None or k > len(logits):
            return False
        newest = logits[self.ends[at - 1] if at else 0 :].max()
        return bool(np.partition(logits, -k)[-k] > newest + self._bounds[at])


def scored(ranker: "RowScorer", rows: NDArray[np.int32], told: Retrieved, k: int, bounds: Bounds) -> "Scored":
    """What the ranker says of the first of `rows` (candidates,), as many as it takes to know the k best."""
    if bounds.is_audit():
        whole = ranker(rows, told)
        bounds.learn(whole.logits)
        return whole
    found: Scored | None = None
    for at, (start, end) in enumerate(pairwise((0, *bounds.ends, len(rows)))):
        block = ranker(rows[start:end], told.take(slice(start, end)))
        found = block if found is None else found.join(block)
        if end < len(rows) and bounds.is_done(at, found.logits, k):
            break
    assert found is not None  # noqa: S101
    return found
