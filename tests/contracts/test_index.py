"""What every item index promises, whichever way it searches."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec import index
from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.tensors import load_tensors, save_tensors
from millirec.index import (
    ExactConfig,
    Index,
    IndexConfig,
    PQConfig,
    ProductIndex,
    ProductIndexConfig,
    TableIndexConfig,
    TieredIndexConfig,
)

CONFIGS = [
    pytest.param(ExactConfig(), id="exact"),
    pytest.param(PQConfig(), id="pq"),
    pytest.param(TableIndexConfig(), id="table"),
    pytest.param(ProductIndexConfig(codes=8, bits=8), id="product"),
    pytest.param(TieredIndexConfig(fine_codes=8, bits=8, codes=8, code_bits=8), id="tiered"),
    pytest.param(PQConfig(codes=4), id="pq-few-codes"),
    pytest.param(PQConfig(lists=5, probes=5), id="pq-inverted-file"),
]
every = pytest.mark.parametrize("config", CONFIGS)


def random_vectors(n: int = 300, dim: int = 8, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n + 1, dim)).astype(np.float32)
    vectors = np.rint(16 * vectors) / 16  # a product index is over vectors with few different numbers
    vectors[0] = 100  # padding that would win every search
    return vectors


def brute(vectors: np.ndarray, query: np.ndarray, k: int) -> list[int]:
    scores = [(-float(np.float64(query) @ v), row) for row, v in enumerate(vectors.astype(np.float64)) if row]
    return [row for _, row in sorted(scores)[:k]]


def made(vectors: np.ndarray, config: IndexConfig) -> Index:
    """The index over these vectors; where it is not made from vectors, every third item is of the fine tier."""
    if not isinstance(config, TieredIndexConfig):
        return index.build(vectors, config)
    fine = np.arange(len(vectors)) % 3 == 1
    arrays = {"slots": np.cumsum(fine, dtype=np.int32)[:, None]}
    own = np.vstack([vectors[:1], vectors[fine]]), vectors[~fine]
    for name, rows, tier in zip(("fine", "coarse"), own, config.tiers(), strict=True):
        arrays |= {f"{name}.{part}": array for part, array in ProductIndex.build(rows, tier).arrays().items()}
    return index.load(arrays, config)


def test_every_kind_is_here() -> None:
    assert {type(param.values[0]) for param in CONFIGS} == set(get_args(IndexConfig))


@every
def test_known_answers(config: IndexConfig) -> None:
    # row r points at angle 2 pi r / 40 with length 1: a query at a row's angle finds it, then its neighbours
    angles = 2 * np.pi * np.arange(41) / 40
    plane = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    vectors = np.zeros((41, 8), np.float32)
    vectors[:, :2] = plane
    built = made(vectors, config)
    assert (built.n_items, built.dim) == (40, 8)
    found = built.search(vectors[[10, 20]], 3)
    assert found.rows[:, 0].tolist() == [10, 20]
    assert {*found.rows[0, 1:]} == {9, 11}
    assert {*found.rows[1, 1:]} == {19, 21}
    assert found.scores[:, 0] == pytest.approx(1, abs=2e-3)
    assert found.scores[:, 1] == pytest.approx(np.cos(2 * np.pi / 40), abs=2e-3)
    assert (found.rows.dtype, found.scores.dtype) == (np.int32, np.float32)


@every
def test_a_batch_says_what_its_queries_say_alone(config: IndexConfig) -> None:
    built = made(random_vectors(), config)
    queries = random_vectors(40, seed=1)[1:]
    whole = built.search(queries, 10)
    assert (np.diff(whole.scores, axis=1) <= 0).all()
    for i in range(len(queries)):
        alone = built.search(queries[i : i + 1], 10)
        assert alone.rows[0].tolist() == whole.rows[i].tolist()
        assert alone.scores[0] == pytest.approx(whole.scores[i], abs=1e-5)
    assert built.search(queries[:0], 10).rows.shape == (0, 10)


@every
@pytest.mark.parametrize("k", [1, 299, 300, 301, 1000])
def test_any_k(config: IndexConfig, k: int) -> None:
    built = made(random_vectors(), config)
    rows, scores = built.search(random_vectors(5, seed=2)[1:], k)
    assert rows.shape == scores.shape == (5, k)
    full = min(k, 300)
    for line, values in zip(rows, scores, strict=True):
        assert len(set(line[:full].tolist())) == full
        assert line[:full].min() > 0
        assert (line[full:] == 0).all()
        assert np.isneginf(values[full:]).all()


@every
def test_save_and_load_change_nothing(config: IndexConfig, tmp_path: Path) -> None:
    vectors = random_vectors()
    vectors[7] = np.nan
    built = made(vectors, config)
    save_tensors(built.arrays(), tmp_path / "index")
    back = index.load(load_tensors(tmp_path / "index"), config)
    queries, rows = random_vectors(20, seed=3)[1:], np.arange(301, dtype=np.int32)
    for before, after in zip(built.search(queries, 12), back.search(queries, 12), strict=True):
        assert np.array_equal(before, after)
    assert np.array_equal(built.vectors(rows), back.vectors(rows), equal_nan=True)
    assert (back.n_items, back.dim) == (300, 8)


@every
def test_the_same_vectors_give_the_same_bytes(config: IndexConfig) -> None:
    one, other = (made(random_vectors(), config).arrays() for _ in range(2))
    assert {name: array.tobytes() for name, array in one.items()} == {
        name: array.tobytes() for name, array in other.items()
    }


@every
def test_nan_and_infinity_sink(config: IndexConfig) -> None:
    vectors = random_vectors()
    vectors[5, 2], vectors[9], vectors[11, 0] = np.nan, np.inf, -np.inf
    built = made(vectors, config)
    found = built.search(random_vectors(10, seed=4)[1:], 300)
    assert not np.isin(found.rows, [5, 9, 11]).any()
    assert ((found.rows > 0).sum(axis=1) == 297).all()
    rows = np.array([[0, 5, 9, 11, 12]], np.int32)
    scores = built.scores(random_vectors(1, seed=4)[1:], rows)
    assert np.isneginf(scores[0, :4]).all()
    assert np.isfinite(scores[0, 4])


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_no_number_matches_nothing(config: IndexConfig, bad: float) -> None:
    queries = random_vectors(3, seed=4)[1:]
    queries[1, 3] = bad
    found = made(random_vectors(), config).search(queries, 5)
    assert (found.rows[1] == 0).all()
    assert np.isneginf(found.scores[1]).all()
    assert (found.rows[[0, 2]] > 0).all()


@every
def test_scores_and_vectors_of_given_rows(config: IndexConfig) -> None:
    vectors = random_vectors()
    built = made(vectors, config)
    rows = np.array([[3, 300, 3, 0], [1, 0, 2, 17]], np.int32)
    queries = random_vectors(2, seed=5)[1:]
    scores = built.scores(queries, rows)
    assert scores.shape == (2, 4)
    want = np.einsum("bcd,bd->bc", vectors[rows], queries)
    assert scores[rows > 0] == pytest.approx(want[rows > 0], abs=0.02)
    assert np.isneginf(scores[rows == 0]).all()
    assert built.vectors(rows[0, :2]) == pytest.approx(vectors[[3, 300]], abs=0.01)
    assert built.scores(queries, rows[:, :0]).shape == (2, 0)
    assert built.vectors(rows[0, :0]).shape == (0, 8)
    found = built.search(queries, 4)
    assert built.scores(queries, found.rows) == pytest.approx(found.scores, abs=1e-4)


@every
def test_several_threads_may_search(config: IndexConfig) -> None:
    built = made(random_vectors(), config)
    queries = random_vectors(64, seed=6)[1:]
    ks = (3, 40, 150)
    want = {k: built.search(queries, k).rows for k in ks}
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda i: built.search(queries, ks[i % 3]).rows, range(60)))
    finally:
        sys.setswitchinterval(interval)
    assert all(np.array_equal(rows, want[ks[i % 3]]) for i, rows in enumerate(found))


@every
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(16, 200), k=st.integers(1, 30))
def test_random_vectors_against_brute_force(config: IndexConfig, seed: int, n: int, k: int) -> None:
    vectors = random_vectors(n, seed=seed)
    queries = random_vectors(4, seed=seed + 1)[1:]
    found = made(vectors, config).search(queries, k).rows
    want = [brute(vectors, query, k) for query in queries]
    if isinstance(config, ExactConfig | ProductIndexConfig):
        assert [line[line > 0].tolist() for line in found] == want
    else:  # everything is re-ranked here, so only the rounding to 16 bits can tell two items apart
        shared = sum(len({*line.tolist()} & {*true}) for line, true in zip(found, want, strict=True))
        assert shared >= 0.9 * sum(map(len, want)) - 1


@pytest.mark.parametrize("config", [PQConfig(), PQConfig(lists=64, probes=24)])
def test_recall_where_not_everything_is_re_ranked(config: IndexConfig) -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((100, 16))
    vectors = (centres[rng.integers(0, 100, 6001)] + 0.6 * rng.standard_normal((6001, 16))).astype(np.float32)
    queries = (vectors[rng.integers(1, 6001, 100)] + 0.3 * rng.standard_normal((100, 16))).astype(np.float32)
    built, truth = made(vectors, config), index.build(vectors, ExactConfig())
    assert index.recall(built, truth, queries) >= 0.95
    assert index.recall(truth, truth, queries) == 1


@every
@pytest.mark.parametrize("shape", [(1, 8), (20, 0), (20,)])
def test_nothing_to_search_is_refused(config: IndexConfig, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="shape"):
        index.build(np.zeros(shape, np.float32), config)


@every
def test_damaged_arrays_are_refused(config: IndexConfig) -> None:
    whole = made(random_vectors(), config).arrays()
    for name, array in whole.items():
        for damaged in (array[:0], array.ravel()[: array.size // 2].astype(np.float64), np.zeros(7, np.uint8)):
            with pytest.raises(ArtifactError):
                index.load(whole | {name: damaged}, config)
        with pytest.raises(ArtifactError):
            index.load({key: kept for key, kept in whole.items() if key != name}, config)
    assert isinstance(index.load(whole, config).n_items, int)


def overlap(built: Index, vectors: np.ndarray, queries: np.ndarray, k: int) -> list[float]:
    return [len({*built.search(q[None], k).rows[0]} & {*brute(vectors, q, k)}) / k for q in queries]


@pytest.mark.parametrize("k", [5, 20])
def test_recall_is_the_share_of_true_matches(k: int) -> None:
    vectors, queries = random_vectors(400, 8), random_vectors(30, 8, seed=9)[1:]
    rough = index.build(vectors, PQConfig(codes=1, refine=1))  # one code an item: many misses
    measured = index.recall(rough, index.build(vectors, ExactConfig()), queries, k)
    assert measured == pytest.approx(np.mean(overlap(rough, vectors, queries, k)))
    assert measured < 1
