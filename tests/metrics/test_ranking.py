"""Ranking metrics: by hand, by their rules, and against trec_eval."""

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from millirec.metrics import ranking

# list 0: hits at ranks 1 and 3 of 3 relevant items; list 1: a hit at rank 4 of 1; list 2: nothing; list 3: no targets
HITS = np.array([[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]], np.bool_)
N = np.array([3, 1, 2, 0])


def test_worked_out_by_hand() -> None:
    third = 1 / math.log2(4)
    ideal3 = 1 + 1 / math.log2(3) + third
    assert ranking.precision(HITS, 4).tolist() == [0.5, 0.25, 0, 0]
    assert ranking.recall(HITS, N, 4) == pytest.approx([2 / 3, 1, 0, 0])
    assert ranking.f1(HITS, N, 4) == pytest.approx([4 / 7, 0.4, 0, 0])
    assert ranking.hit_rate(HITS, 3).tolist() == [1, 0, 0, 0]
    assert ranking.dcg(HITS, 4) == pytest.approx([1 + third, 1 / math.log2(5), 0, 0])
    assert ranking.ndcg(HITS, N, 4) == pytest.approx([(1 + third) / ideal3, 1 / math.log2(5), 0, 0])
    assert ranking.ndcg(HITS, N, 2)[0] == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert ranking.average_precision(HITS, N, 4) == pytest.approx([(1 + 2 / 3) / 3, 0.25, 0, 0])
    assert ranking.reciprocal_rank(HITS, 4).tolist() == [1, 0.25, 0, 0]
    assert ranking.reciprocal_rank(HITS, 3).tolist() == [1, 0, 0, 0]


def test_graded_gains_by_hand() -> None:
    assert ranking.dcg(np.array([[3.0, 0, 2.0]]), 3) == pytest.approx([3 + 2 / 2])


def test_one_target_a_list() -> None:
    hits = ranking.from_ranks(np.array([1, 3, 0, 11]), 10)
    assert hits.shape == (4, 10)
    assert ranking.ndcg(hits, np.ones(4, np.int64), 10).tolist() == [1, 0.5, 0, 0]


def test_lists_of_rows_skip_padding_and_repeats() -> None:
    rows = np.array([[5, 2, 5, 0], [0, 0, 0, 0], [7, 8, 9, 1]])
    hits, n = ranking.from_lists(rows, [np.array([5, 5, 3]), np.array([1]), np.array([], np.int32)])
    assert hits.tolist() == [[True, False, False, False], [False] * 4, [False] * 4]
    assert n.tolist() == [2, 1, 0]


def test_a_short_or_empty_list_is_filled_with_misses() -> None:
    short = np.array([[True, False]])
    assert ranking.precision(short, 10).tolist() == [0.1]
    assert ranking.ndcg(short, np.array([2]), 10) == pytest.approx([1 / (1 + 1 / math.log2(3))])
    empty = np.zeros((2, 0), np.bool_)
    for values in ranking.score_lists(empty, np.array([1, 2]), [1, 5]).values():
        assert values.tolist() == [0, 0]


def test_users_without_targets_are_left_out() -> None:
    scored = ranking.score_lists(HITS, N, [4])
    assert {len(values) for values in scored.values()} == {3}
    assert scored["recall@4"].mean() == pytest.approx((2 / 3 + 1) / 3)
    assert all(len(values) == 0 for values in ranking.score_lists(HITS[3:], N[3:], [4]).values())


@pytest.mark.parametrize("metric", [ranking.precision, ranking.hit_rate, ranking.dcg, ranking.reciprocal_rank])
def test_k_below_one_is_refused(metric: object) -> None:
    with pytest.raises(ValueError, match="k = 0"):
        metric(HITS, 0)  # type: ignore[operator]


def test_ties_put_the_target_last() -> None:
    scores = np.array([[0.5, 0.5, 0.1, 0.5], [1.0, 2.0, 3.0, 4.0], [7.0, 7.0, 7.0, 7.0]], np.float32)
    assert ranking.rank_of_target(scores, np.array([1, 3, 0])).tolist() == [3, 1, 4]


def test_nan_sinks() -> None:
    nan, low = np.nan, -np.inf
    scores = np.array([[nan, 0.2, 0.1], [nan, 0.2, low], [nan, nan, low]])
    assert ranking.rank_of_target(scores, np.array([2, 0, 2])).tolist() == [2, 3, 1]


@given(st.data())
def test_the_pessimistic_rank_is_the_worst_place_in_any_order(data: st.DataObject) -> None:
    number = st.sampled_from([0.0, 1.0, 2.0, float("nan"), float("-inf")])
    scores = np.array([data.draw(st.lists(number, min_size=1, max_size=8))])
    target = data.draw(st.integers(0, scores.shape[1] - 1))
    own = scores[0, target]
    better_or_equal = [s for s in scores[0] if math.isnan(own) or s >= own]
    assert ranking.rank_of_target(scores, np.array([target])).tolist() == [len(better_or_equal)]


def test_agrees_with_trec_eval() -> None:
    rng = np.random.default_rng(0)
    ks, n_users, n_items, length = (1, 3, 10, 50), 60, 80, 30
    scores = rng.integers(0, 12, (n_users, n_items)).astype(np.float64)  # many ties
    relevant = rng.random((n_users, n_items)) < 0.08
    relevant[:, 0] |= ~relevant.any(axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :length]
    run = {str(u): {f"d{item}": float(length - place) for place, item in enumerate(order[u])} for u in range(n_users)}
    qrel = {str(u): {f"d{item}": 1 for item in np.flatnonzero(relevant[u])} for u in range(n_users)}
    cuts = ",".join(map(str, ks))
    measures = {f"{name}.{cuts}" for name in ("P", "recall", "success", "ndcg_cut", "map_cut")}
    theirs = pytrec_eval.RelevanceEvaluator(qrel, measures | {"recip_rank"}).evaluate(run)
    hits, n_relevant = ranking.from_lists(order + 1, [np.flatnonzero(line) + 1 for line in relevant])
    for k in ks:
        ours = ranking.score_lists(hits, n_relevant, [k])
        names = {
            f"precision@{k}": f"P_{k}",
            f"recall@{k}": f"recall_{k}",
            f"hr@{k}": f"success_{k}",
            f"ndcg@{k}": f"ndcg_cut_{k}",
            f"map@{k}": f"map_cut_{k}",
        }
        for own, name in names.items():
            assert ours[own] == pytest.approx([theirs[str(u)][name] for u in range(n_users)], abs=1e-6), own
    whole = ranking.reciprocal_rank(hits, length)
    assert whole == pytest.approx([theirs[str(u)]["recip_rank"] for u in range(n_users)], abs=1e-6)
    assert 0 < whole.mean() < 1
