"""MMR against a naive reading of the paper, and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.cascade.cascade import Cascade, CascadeConfig
from millirec.cascade.query import Candidates, Shelf
from millirec.cascade.selectors import Choosing, MMRSelector, TopKSelector, select
from millirec.data.catalog import Catalog, Vocabulary
from millirec.data.errors import ConfigError
from millirec.index import ExactConfig, build
from tests.shelves import ask, candidates, rows_of, shelf_of


def choosing(shelf: Shelf, n: int, stretch: int = 1) -> Choosing:
    return Choosing(shelf, ask(n), n, stretch, 0, lambda rows: candidates([], []))


def naive(shelf: Shelf, found: Candidates, weight: float, n: int) -> list[int]:
    """Row by row: argmax of weight * relevance - (1 - weight) * max cosine, the first among equals."""
    vectors = {int(row): shelf.index.vectors(np.array([row], np.int32))[0].astype(float) for row in found.rows}
    cosine = lambda a, b: float(vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b]))  # noqa: E731
    low, high = float(found.scores.min()), float(found.scores.max())
    score = {
        int(r): (float(s) - low) / (high - low) if high > low else 1.0
        for r, s in zip(found.rows, found.scores, strict=True)
    }
    taken: list[int] = []
    while len(taken) < min(n, len(score)):
        left = [row for row in score if row not in taken]
        worth = [
            weight * score[row] - (1 - weight) * max((cosine(row, other) for other in taken), default=0) for row in left
        ]
        taken.append(max(zip(worth, [-at for at in range(len(left))], left, strict=True))[2])
    return taken


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.integers(1, 30))
def test_it_is_the_naive_version(seed: int, n: int, weight: float, size: int) -> None:
    rng = np.random.default_rng(seed)
    shelf = shelf_of(40, seed=seed % 7)
    rows = rng.permutation(40)[:size] + 1
    scores = np.sort(rng.normal(size=size))[::-1]
    found = candidates(scores.tolist(), rows.tolist())
    got = select(MMRSelector(relevance=weight), found, choosing(shelf, n))
    assert rows_of(got) == naive(shelf, found, weight, n)
    kept = dict(zip(found.rows.tolist(), found.scores.tolist(), strict=True))
    assert got.scores.tolist() == [kept[row] for row in rows_of(got)]


def test_by_hand() -> None:
    vectors = np.array([[9, 9], [1, 0], [1, 0], [0, 1], [-1, 0]], np.float32)
    shelf = Shelf(Catalog(Vocabulary(list("abcd"))), build(vectors, ExactConfig()), np.zeros(5, np.int64))
    found = candidates([4.0, 3.0, 2.0, 0.0])  # 1, 0.75, 0.5, 0
    half = select(MMRSelector(relevance=0.5), found, choosing(shelf, 4))
    # after a: b 0.375 - 0.5, c 0.25 - 0, d 0 + 0.5 -> d; then b 0.375 - 0.5, c 0.25 - 0 -> c; then b
    assert rows_of(half) == [1, 4, 3, 2]
    assert rows_of(select(MMRSelector(relevance=1), found, choosing(shelf, 4))) == [1, 2, 3, 4]


def test_the_pool_bounds_what_is_read_and_non_finite_scores_are_out() -> None:
    shelf = shelf_of(10)
    found = candidates([5.0, 4.0, float("nan"), 3.0, -np.inf, 2.0])
    assert set(rows_of(select(MMRSelector(pool=1), found, choosing(shelf, 3)))) == {1, 2, 4}
    assert len(select(MMRSelector(pool=100), found, choosing(shelf, 9))) == 4


def test_items_without_a_vector_are_like_no_other() -> None:
    vectors = np.array([[0, 0], [1, 0], [np.nan, 0], [1, 0]], np.float32)
    shelf = Shelf(Catalog(Vocabulary(list("abc"))), build(vectors, ExactConfig()), np.zeros(4, np.int64))
    got = select(MMRSelector(relevance=0.5), candidates([3.0, 1.0, 2.0]), choosing(shelf, 3))
    assert rows_of(got) == [1, 3, 2] or rows_of(got) == [1, 2, 3]
    # c: 0.25 - 0.5 = -0.25, b: 0 - 0 = 0
    assert rows_of(got) == [1, 2, 3]


def test_in_a_cascade_it_reads_its_pool_and_top_k_sorts_what_it_chose() -> None:
    shelf = shelf_of(200)
    vector = [1.0, -0.5, 0.3, 0.2]
    alone = Cascade(CascadeConfig(selectors=(MMRSelector(relevance=0.4, pool=50),)), shelf).run([ask(8, vector)])[0]
    sorted_ = Cascade(CascadeConfig(selectors=(MMRSelector(relevance=0.4, pool=50), TopKSelector())), shelf)
    answer = sorted_.run([ask(8, vector)])[0]
    plain = Cascade(CascadeConfig(), shelf).run([ask(50, vector)])[0]
    assert set(alone.items) == set(answer.items)
    assert set(answer.items) <= set(plain.items)
    assert alone.items != answer.items
    assert list(answer.scores) == sorted(answer.scores, reverse=True)
    assert [(s.name, s.n_in, s.n_out) for s in answer.trace][-2:] == [("mmr", 50, 8), ("top-k", 8, 8)]
    cold = Cascade(CascadeConfig(selectors=(MMRSelector(),)), shelf).run([ask(8)])[0]
    assert (len(cold.items), cold.source) == (8, "popular")


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"relevance": 1.5}, "relevance = 1.5"), ({"pool": 0}, "pool = 0"), ({"n": 0}, "n = 0")],
)
def test_bad_settings_are_refused(fields: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        MMRSelector(**fields)  # type: ignore[arg-type]
