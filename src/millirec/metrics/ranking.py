"""Ranking metrics of top-k lists, one value a list, so that intervals over users can be computed.

`hits` bool (n, K): whether the item at rank j + 1 of list i is relevant. `n_relevant` int (n,): how many
items are relevant for that user, on the list or not. Every function returns float64 (n,), never NaN.

The rules:

- A list that is shorter than k (or empty) is filled with misses. So precision divides by k, always, and an
  empty list scores 0.
- A user without targets cannot be served well or badly: the functions give 0 there, and averages leave such
  users out. `score_lists` does so, and returns only the users that have targets.
- Ties are no list's business: a list is an order. Where a list is made from scores, `rank_of_target` places
  the target behind everything that scores the same, so a constant scorer never looks good.
- Average precision divides by all relevant items (trec_eval's `map_cut`), not by min(k, relevant).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hits = NDArray[np.bool_]
Counts = NDArray[np.integer[Any]]
Values = NDArray[np.float64]


def precision(hits: Hits, k: int) -> Values:
    """Relevant items among the first k, divided by k."""
    return _found(hits, k) / k


def recall(hits: Hits, n_relevant: Counts, k: int) -> Values:
    """Share of the relevant items that stand among the first k."""
    return _ratio(_found(hits, k), n_relevant)


def f1(hits: Hits, n_relevant: Counts, k: int) -> Values:
    """Harmonic mean of precision and recall at k; 0 where both are 0."""
    p, r = precision(hits, k), recall(hits, n_relevant, k)
    return _ratio(2 * p * r, p + r)


def hit_rate(hits: Hits, k: int) -> Values:
    """1 where any of the first k is relevant, else 0."""
    return (_found(hits, k) > 0).astype(np.float64)


def dcg(gains: NDArray[Any], k: int) -> Values:
    """Discounted cumulative gain: sum of gain / log2(rank + 1) over the first k.

    `gains` (n, K): `hits`, or graded gains. Järvelin and Kekäläinen, TOIS 2002, discounted as in
    trec_eval.
    """
    _check(k)
    first = gains[:, :k].astype(np.float64)
    out: Values = first @ _discounts(first.shape[1])
    return out


def ndcg(hits: Hits, n_relevant: Counts, k: int) -> Values:
    """DCG divided by the DCG of the best possible list: all relevant items first."""
    ideal = np.concatenate([[0.0], np.cumsum(_discounts(k))])
    return _ratio(dcg(hits, k), ideal[np.minimum(n_relevant, k)])


def average_precision(hits: Hits, n_relevant: Counts, k: int) -> Values:
    """Mean over the relevant items of the precision at their ranks, 0 for those beyond k. Mean: MAP@k."""
    _check(k)
    first = hits[:, :k].astype(np.float64)
    at_rank = np.cumsum(first, axis=1) / np.arange(1, first.shape[1] + 1)
    return _ratio((first * at_rank).sum(axis=1), n_relevant)


def reciprocal_rank(hits: Hits, k: int) -> Values:
    """1 / rank of the first relevant item, 0 where none is among the first k. Its mean is MRR@k."""
    _check(k)
    first = hits[:, :k].astype(np.float64)
    out: Values = (first / np.arange(1, first.shape[1] + 1)).max(axis=1, initial=0.0)
    return out


def from_ranks(ranks: Counts, size: int) -> Hits:
    """Hits (n, size) of lists with one target each, given its rank: 1 = best; 0 or > `size` = not on it."""
    out: Hits = np.asarray(ranks)[:, None] == np.arange(1, size + 1)
    return out


def from_lists(rows: Counts, targets: Sequence[NDArray[Any]]) -> tuple[Hits, NDArray[np.int64]]:
    """`hits` and `n_relevant` of lists of item rows (n, K), 0 = no item, given each user's target rows.

    A target that is named twice counts once, and an item that stands twice on a list is a hit at first sight
    only.
    """
    hits = np.zeros(rows.shape, np.bool_)
    n_relevant = np.zeros(len(rows), np.int64)
    for i, wanted in enumerate(targets):
        wanted = np.unique(wanted)
        wanted = wanted[wanted > 0]
        n_relevant[i] = len(wanted)
        first = np.unique(rows[i], return_index=True)[1]
        hits[i, first] = np.isin(rows[i, first], wanted)
    return hits, n_relevant


def rank_of_target(scores: NDArray[np.floating[Any]], target: Counts) -> NDArray[np.int64]:
    """The rank (1 = best) of one target column in each row of `scores` (n, C); `target` int (n,).

    Pessimistic: the target stands behind everything that scores the same. NaN sinks below everything, -inf
    included; a target whose own score is NaN is last (rank C). Leave an item out by setting it to -inf.
    """
    own = np.take_along_axis(scores, np.asarray(target)[:, None], axis=1)
    ranks: NDArray[np.int64] = (scores >= own).sum(axis=1, dtype=np.int64)
    return np.where(np.isnan(own[:, 0]), scores.shape[1], ranks)


def score_lists(hits: Hits, n_relevant: Counts, ks: Sequence[int]) -> dict[str, Values]:
    """Every metric at every k, such as `ndcg@10`: values of the users that have targets, in their order."""
    kept = np.asarray(n_relevant) > 0
    hits, n = hits[kept], np.asarray(n_relevant)[kept]
    out: dict[str, Values] = {}
    for k in ks:
        out |= {
            f"ndcg@{k}": ndcg(hits, n, k),
            f"hr@{k}": hit_rate(hits, k),
            f"recall@{k}": recall(hits, n, k),
            f"precision@{k}": precision(hits, k),
            f"f1@{k}": f1(hits, n, k),
            f"map@{k}": average_precision(hits, n, k),
            f"mrr@{k}": reciprocal_rank(hits, k),
        }
    return out


def _found(hits: Hits, k: int) -> Values:
    _check(k)
    out: Values = hits[:, :k].sum(axis=1, dtype=np.float64)
    return out


def _check(k: int) -> None:
    if k < 1:
        raise ValueError(f"k = {k}: a list is cut at rank 1 or later")


def _discounts(k: int) -> Values:
    out: Values = 1.0 / np.log2(np.arange(2, k + 2))
    return out


def _ratio(above: Values, below: NDArray[Any]) -> Values:
    out: Values = np.divide(above, below, out=np.zeros(len(above)), where=np.asarray(below) > 0)
    return out
