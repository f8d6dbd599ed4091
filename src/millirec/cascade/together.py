"""Several sources asked together: each offers its own best, the lists merge."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from millirec.cascade.query import Candidates

_RANK = 60  # the constant of the paper: how little the first places differ


class Offer(NamedTuple):
    """What a source offers, and whether it has no more."""

    candidates: Candidates
    is_all: bool


def merged(offers: Sequence[Candidates]) -> Candidates:
    """All candidates once, each from the first that offers it; their scores are comparable."""
    out = offers[0]
    for offer in offers[1:]:
        out = out.join(offer)
    return out


def fused(offers: Sequence[Candidates]) -> Candidates:
    """All candidates once; the score is the sum over its sources of 1 / (60 + place), best first.

    Cormack, Clarke and Buettcher, SIGIR 2009.
    """
    rows = np.concatenate([offer.rows for offer in offers])
    shares = np.concatenate([1 / (_RANK + 1 + np.arange(len(offer))) for offer in offers])
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    scores = np.bincount(inverse, shares, len(first)).astype(np.float32)
    order = np.lexsort((first, -scores))
    at = first[order]
    origins = np.concatenate([offer.origins for offer in offers if offer.origins is not None])[at]
    return Candidates(rows[at], scores[order], "fused", True, origins=origins)
