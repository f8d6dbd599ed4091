"""Sources: where candidates come from. `SourceConfig` is the registry; who has nothing to say offers nothing."""

import numpy as np
from numpy.typing import NDArray

from millirec.cascade.query import Asked, Candidates, Shelf
from millirec.cascade.sources.content import ContentSource, content
from millirec.cascade.sources.new import NewSource, new
from millirec.cascade.sources.own import OwnSource, own
from millirec.cascade.sources.popular import PopularSource, popular
from millirec.cascade.sources.sequence import SequenceSource, model_scores, sequence
from millirec.cascade.sources.similar import SimilarSource, similar

__all__ = [
    "ContentSource",
    "NewSource",
    "OwnSource",
    "PopularSource",
    "SequenceSource",
    "SimilarSource",
    "SourceConfig",
    "allowed",
    "few",
    "model_scores",
    "offer",
    "popular",
    "sequence",
]

SCORE_AT_ONCE = 2_000
SourceConfig = SequenceSource | PopularSource | SimilarSource | NewSource | ContentSource | OwnSource


def offer(config: SourceConfig, shelf: Shelf, asked: Asked, n: int) -> Candidates:
    """The `n` best candidates of a source, best first, before any filter; fewer when it has no more."""
    match config:
        case SequenceSource():
            return NOTHING if asked.vector is None else sequence(shelf, [asked], n)[0]
        case PopularSource():
            return popular(shelf, n)
        case SimilarSource():
            return similar(config, shelf, asked, n)
        case NewSource():
            return new(config, shelf, n)
        case ContentSource():
            return content(config, shelf, asked, n)
        case OwnSource():
            return own(asked, n)


NOTHING = Candidates(np.empty(0, np.int32), np.empty(0, np.float32), "popular", True)


def few(shelf: Shelf, n: int) -> bool:
    """Whether `n` items are at most `SCORE_AT_ONCE`, or a tenth of the catalogue: scoring beats searching for them."""
    return n <= SCORE_AT_ONCE or n * 10 <= shelf.n_items


def allowed(shelf: Shelf, asked: Asked) -> NDArray[np.int32] | None:
    """The rows of an answer when the question itself leaves only few, int32 (n,) ascending; None otherwise."""
    if asked.include is not None:
        return np.unique(asked.include[asked.include > 0])
    if asked.where is None:
        return None
    if not few(shelf, int(np.count_nonzero(asked.where))):
        return None
    return (np.flatnonzero(asked.where[1:]) + 1).astype(np.int32)
