"""What the model finds."""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.cascade.query import Asked, Candidates, Shelf
from millirec.cascade.sources.size import check_sizes

_CHUNK = 65_536


class SequenceSource(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="sequence"
):
    """The items nearest to the user vector, from the index. Offers nothing to an empty history.

    `n`: how many it offers where sources are asked together; None = as many as the selectors read.
    """

    n: int | None = None

    def __post_init__(self) -> None:
        check_sizes("sequence", n=self.n)


def sequence(shelf: Shelf, asked: Sequence[Asked], n: int) -> list[Candidates]:
    """The `n` best items of each question, which have user vectors, best first, from one call to the index."""
    rows, scores = shelf.index.search(np.array([one.vector for one in asked], np.float32), n)
    if rows.all():
        found = [Candidates(rows[i], scores[i], "sequence", True) for i in range(len(rows))]
    else:
        kept = rows > 0
        found = [Candidates(rows[i][kept[i]], scores[i][kept[i]], "sequence", True) for i in range(len(rows))]
    return [_raised(shelf, one, best, n) for one, best in zip(asked, found, strict=True)]


def _raised(shelf: Shelf, asked: Asked, found: Candidates, n: int) -> Candidates:
    """The `n` best with what is added to some scores: none is below 0, so they are among these and the best without."""
    extra = asked.extra
    if extra is None or not len(extra.rows):
        return found
    new = extra.rows[shelf.absent(extra.rows, found.rows)]
    own = model_scores(shelf, asked, new)
    known = np.isfinite(own)  # the search has left out what has no finite score
    rows = np.concatenate([found.rows, new[known]])
    scores = np.concatenate([found.scores + extra.of(found.rows), own[known]])
    if len(rows) > n:
        least = np.partition(scores, len(scores) - n)[len(scores) - n]
        kept = scores >= least
        rows, scores = rows[kept], scores[kept]
    order = np.lexsort((rows, -scores))[:n]
    return Candidates(rows[order], scores[order], "sequence", True)


def model_scores(shelf: Shelf, asked: Asked, rows: NDArray[np.int32]) -> NDArray[np.float32]:
    """Scores float32 (n,) of rows (n,) for a question with a user vector, in chunks so that memory stays bounded."""
    assert asked.vector is not None  # noqa: S101
    vector = asked.vector[None, :]
    chunks: list[NDArray[np.float32]] = [
        shelf.index.scores(vector, rows[None, at : at + _CHUNK])[0] for at in range(0, len(rows), _CHUNK)
    ]
    if not chunks:
        return np.empty(0, np.float32)
    scores = chunks[0] if len(chunks) == 1 else np.concatenate(chunks)
    return scores if asked.extra is None else scores + asked.extra.of(rows)
