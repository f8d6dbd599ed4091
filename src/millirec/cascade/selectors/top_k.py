"""The k best by score."""

import msgspec
import numpy as np

from millirec.cascade.query import Candidates


class TopKSelector(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="top-k"
):
    """The k best scores, best first; equal scores keep the order of their source."""


def top_k(candidates: Candidates, k: int) -> Candidates:
    """The `k` best, best first. NaN sinks to the bottom; equal scores keep their order."""
    rows, scores = candidates.rows, candidates.scores
    if candidates.ordered:
        if candidates.origins is not None or candidates.retrieval is not None:
            return candidates.take(slice(k))
        return Candidates(rows[:k], scores[:k], candidates.source, True)
    lost = np.isnan(scores)
    if lost.any():
        scores = np.where(lost, np.float32(-np.inf), scores)
    best = None
    if len(rows) > max(4 * k, 512):
        # A partition finds the k-th best; the ties at that place are all kept for the stable sort below.
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        best = np.flatnonzero(scores >= least)
        rows, scores = rows[best], scores[best]
    order = np.argsort(-scores, kind="stable")[:k]
    out = Candidates(rows[order], scores[order], candidates.source)
    at = order if best is None else best[order]
    if candidates.origins is not None:
        out.origins = candidates.origins[at]
    if candidates.retrieval is not None:
        out.retrieval = candidates.retrieval.take(at)
    return out
