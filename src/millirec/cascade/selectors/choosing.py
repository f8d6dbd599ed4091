"""`Choosing`: what a selector sees beside its candidates, and the measures that selectors share."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from millirec.cascade.query import Asked, Candidates, Shelf
from millirec.cascade.selectors.top_k import top_k
from millirec.data.errors import ConfigError


@dataclass(slots=True, frozen=True)
class Choosing:
    """One selector's turn at one question.

    `n`: how many it gives. `stretch`: by how much pools are wider than configured, since a first try ran short.
    `place`: of the selector in the list. `reach(rows)`: these rows int32 (m,) filtered and scored like all others.
    `sources`: what `Candidates.origins` stand for.
    """

    shelf: Shelf
    asked: Asked
    n: int
    stretch: int
    place: int
    reach: Callable[[NDArray[np.int32]], Candidates]
    sources: tuple[str, ...] = ()

    def pool(self, candidates: Candidates, size: int) -> Candidates:
        """The first `size` candidates that have a finite score: by score, or as an earlier selector put them."""
        size = max(size, self.n) * self.stretch
        first = candidates.take(slice(size)) if candidates.arranged else top_k(candidates, size)
        finite = np.isfinite(first.scores)
        return first if finite.all() else first.take(finite)


def relevance(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Finite scores (n,) brought to 0..1, the best of them at 1; all 1 when they are equal."""
    if not len(scores):
        return np.empty(0)
    wide = scores.astype(np.float64)
    low, high = wide.min(), wide.max()
    return (wide - low) / (high - low) if high > low else np.ones(len(wide))


def directions(shelf: Shelf, rows: NDArray[np.int32]) -> NDArray[np.float64]:
    """Item vectors (n, d) of length 1, so that products are cosines; zeros for an item that has none."""
    vectors = np.nan_to_num(shelf.index.vectors(rows).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    out: NDArray[np.float64] = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return out


def check_sizes(kind: str, pool: int, n: int | None) -> None:
    """Raises ConfigError for a pool or a length below 1."""
    for name, size in (("pool", pool), ("n", n)):
        if size is not None and size < 1:
            raise ConfigError(f'$.cascade.selectors ("{kind}").{name} = {size}', "choose at least 1")


def check_share(kind: str, name: str, share: float, *, inner: bool = False) -> None:
    """Raises ConfigError for a number outside 0..1, ends included unless `inner`."""
    if not (0 < share < 1 if inner else 0 <= share <= 1):
        mend = "choose a number between 0 and 1" if inner else "choose 0 to 1"
        raise ConfigError(f'$.cascade.selectors ("{kind}").{name} = {share}', mend)
