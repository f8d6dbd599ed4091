"""The product index: decoding, exactness of the scan, codes found again, what is refused."""

import itertools

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec import index
from millirec.data.codes import pack
from millirec.data.errors import ArtifactError, ConfigError
from millirec.index import ExactConfig, ProductIndex, ProductIndexConfig, product
from millirec.index.product import decoded
from millirec.models.layers.table import Product, ProductTable


def parts_of(n: int, codes: int, bits: int, width: int, seed: int, *, whole: bool = True) -> tuple:
    """Random packed codes of rows 0..n and sub-vectors; of whole numbers, so that sums are exact."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 2**bits, (n + 1, codes), dtype=np.uint8)
    shape = (codes, 2**bits, width)
    centroids = rng.integers(-4, 5, shape) if whole else rng.standard_normal(shape)
    return pack(numbers, bits), centroids.astype(np.float32)


@pytest.fixture
def scanning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of large catalogues for small ones."""
    monkeypatch.setattr(product, "_SCAN_FROM", 1)


def test_decoding_by_hand() -> None:
    # two codes of 4 bits in a byte, the first one in its lower half: 0x21 = (1, 2)
    centroids = np.zeros((2, 16, 1), np.float32)
    centroids[0, :, 0], centroids[1, :, 0] = np.arange(16), 100 + np.arange(16)
    codes = np.array([[0x00], [0x21], [0xFE]], np.uint8)
    assert decoded(codes, centroids).tolist() == [[0, 100], [1, 102], [14, 115]]
    built = ProductIndex(codes, centroids)
    assert (built.n_items, built.dim) == (2, 2)
    # scores: 2 * 1 - 102 = -100 and 2 * 14 - 115 = -87
    found = built.search(np.array([[2, -1]], np.float32), 3)
    assert found.rows.tolist() == [[2, 1, 0]]
    assert found.scores.tolist() == [[-87, -100, -np.inf]]


@pytest.mark.parametrize("bits", [4, 8])
def test_it_decodes_as_the_table_of_the_network(bits: int) -> None:
    codes, centroids = parts_of(50, 4, bits, 3, seed=0, whole=False)
    table = ProductTable(50, 12, Product(codes=4, bits=bits))
    table.load_state_dict({"codes": torch.from_numpy(codes), "centroids": torch.from_numpy(centroids)})
    with torch.inference_mode():
        assert np.array_equal(decoded(codes, centroids), table.vectors().numpy())


@pytest.mark.usefixtures("scanning")
@pytest.mark.parametrize("bits", [4, 8])
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), n=st.integers(1, 400), codes=st.sampled_from([2, 4, 6]), k=st.sampled_from([1, 7, 150])
)
def test_the_scan_finds_what_brute_force_finds(bits: int, seed: int, n: int, codes: int, k: int) -> None:
    # few sub-vectors of whole numbers: many ties, which go by row
    packed, centroids = parts_of(n, codes, bits, 2, seed)
    queries = np.random.default_rng(seed + 1).integers(-4, 5, (4, 2 * codes)).astype(np.float32)
    queries[3] = 0
    built = ProductIndex(packed, centroids)
    assert built._whole is None
    found = built.search(queries, k)
    scores = (queries @ decoded(packed, centroids).T)[:, 1:]
    for b, line in enumerate(scores):
        best = np.lexsort((np.arange(n), -line))[:k]
        assert found.rows[b, : len(best)].tolist() == (best + 1).tolist()
        assert found.scores[b, : len(best)].tolist() == line[best].tolist()
        assert (found.rows[b, len(best) :] == 0).all()


@pytest.mark.usefixtures("scanning")
def test_more_is_proposed_until_nothing_can_be_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    # 4,000 items whose scores differ by less than a byte of the look-up tables can tell
    rng = np.random.default_rng(0)
    codes, centroids = parts_of(4000, 4, 4, 1, seed=0)
    centroids[:] = 1e-4 * rng.standard_normal(centroids.shape)
    codes[:, 0] &= 0xF0
    centroids[0, 15] = 1000  # no item has it, and it decides what a byte stands for
    built = ProductIndex(codes, centroids)
    counts: list[int] = []
    proposed = ProductIndex._proposed
    monkeypatch.setattr(
        ProductIndex, "_proposed", lambda self, asked, count: (counts.append(count), proposed(self, asked, count))[1]
    )
    found = built.search(np.ones((1, 4), np.float32), 10)
    scores = decoded(codes, centroids)[1:].sum(axis=1)
    assert found.scores[0] == pytest.approx(np.sort(scores)[::-1][:10], rel=1e-5)
    assert counts == [47, 188, 752, 3008, 4000]
    # the next question begins with more, up to a bound; others that need few bring it down again
    firsts = []
    for _ in range(6):
        counts.clear()
        assert built.search(np.ones((1, 4), np.float32), 10).rows.tolist() == found.rows.tolist()
        firsts.append(counts[0])
    assert firsts[0] == 107
    assert firsts[-1] == int(10 * 0.99 * 16) + 32
    for _ in range(300):
        built.search(np.zeros((1, 4), np.float32), 10)
    assert counts[-1] == 47


@pytest.mark.usefixtures("scanning")
def test_the_bound_holds_for_whatever_the_scan_says() -> None:
    codes, centroids = parts_of(3000, 16, 4, 4, seed=3, whole=False)
    built = ProductIndex(codes, centroids)
    queries = np.random.default_rng(4).standard_normal((20, 64)).astype(np.float32)
    asked = built._asked(queries)
    rough, positions = built._scan.search(queries, 3000)
    true = queries @ decoded(codes, centroids).T
    error = np.abs(rough - np.take_along_axis(true, positions + 1, axis=1)).max(axis=1)
    assert (error <= asked.slack).all()
    assert (error > 0.1 * asked.slack).all()  # and it is no idle one


@pytest.mark.usefixtures("scanning")
@pytest.mark.parametrize("bits", [4, 8])
def test_scan_and_matrix_say_the_same_of_what_is_no_number(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codes, centroids = parts_of(500, 4, bits, 2, seed=1)
    centroids[1, 3] = np.nan
    centroids[2, 5, 1] = np.inf
    unfit = np.array([4, 77], np.int32)
    queries = np.random.default_rng(2).integers(-9, 9, (6, 8)).astype(np.float32)
    queries[0, 2], queries[1, 0], queries[2] = np.nan, np.inf, 0
    queries[3] *= 2.0**90
    queries[4] *= 2.0**124  # products overflow, in part
    scan = ProductIndex(codes, centroids, unfit)
    monkeypatch.setattr(product, "_SCAN_FROM", 10_000)
    matrix = ProductIndex(codes, centroids, unfit)
    assert scan._whole is None
    assert matrix._whole is not None
    rows = np.arange(501, dtype=np.int32)
    for k in (1, 20, 500):
        found, want = scan.search(queries, k), matrix.search(queries, k)
        for b in (0, 1, 2, 3, 5):
            assert np.array_equal(found.rows[b], want.rows[b])
            assert np.array_equal(found.scores[b], want.scores[b])
        assert not np.isin(found.rows, unfit).any()
        assert np.isneginf(found.scores[found.rows == 0]).all()
        assert np.isfinite(found.scores[found.rows > 0]).all()
    assert np.array_equal(scan.vectors(rows), matrix.vectors(rows), equal_nan=True)
    assert np.isnan(scan.vectors(unfit)).all()
    every = np.tile(rows, (6, 1))
    assert np.array_equal(scan.scores(queries, every), matrix.scores(queries, every))


@pytest.mark.usefixtures("scanning")
def test_no_item_at_all() -> None:
    codes, centroids = parts_of(20, 2, 4, 2, seed=0)
    found = ProductIndex(codes, np.full_like(centroids, np.nan)).search(np.ones((2, 4), np.float32), 3)
    assert not found.rows.any()
    assert np.isneginf(found.scores).all()


@pytest.mark.parametrize(("bits", "codes"), [(4, 4), (8, 3)])
def test_codes_are_found_again_in_the_vectors(bits: int, codes: int) -> None:
    packed, centroids = parts_of(2000, codes, bits, 2, seed=5, whole=False)
    vectors = decoded(packed, centroids)
    vectors[9] = np.nan
    built = index.build(vectors, ProductIndexConfig(codes=codes, bits=bits))
    vectors[0] = np.nan
    assert np.array_equal(built.vectors(np.arange(2001, dtype=np.int32)), vectors, equal_nan=True)
    assert set(built.arrays()) == {"codes", "centroids", "unfit"}
    assert built.arrays()["unfit"].tolist() == [9]


def test_vectors_that_no_codes_made_are_refused() -> None:
    vectors = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    with pytest.raises(
        ConfigError, match=r"part 0 of the item vectors takes more than 16 values -> .*product-quantize"
    ):
        index.build(vectors, ProductIndexConfig(codes=4))
    with pytest.raises(ConfigError, match=r"codes = 6 does not divide the width 8"):
        index.build(vectors, ProductIndexConfig(codes=6))


@pytest.mark.parametrize(("field", "value"), [("codes", 0), ("codes", 3), ("codes", -2), ("bits", 2), ("bits", 16)])
def test_settings_that_cannot_work(field: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"\$\.index\.{field} = {value}"):
        ProductIndexConfig(**{field: value})


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="refine"):
        msgspec.json.decode(b'{"kind": "product", "refine": 3}', type=index.IndexConfig)


def test_arrays_that_do_not_fit_are_refused() -> None:
    codes, centroids = parts_of(30, 4, 4, 2, seed=0)
    good = {"codes": codes, "centroids": centroids}
    config = ProductIndexConfig(codes=4)
    assert index.load(good, config).n_items == 30
    bad = [
        {"codes": codes[:, :1]},
        {"codes": codes.astype(np.int64)},
        {"centroids": centroids[:, :15]},
        {"centroids": centroids.astype(np.float64)},
        {"centroids": centroids[:, :, :0]},
        *({"unfit": np.array(rows, kind)} for rows, kind in itertools.product(([31], [0]), (np.int32, np.int64))),
    ]
    for change in bad:
        with pytest.raises(ArtifactError, match="pack again"):
            index.load(good | change, config)
    for name in good:
        with pytest.raises(ArtifactError, match=name):
            index.load({key: array for key, array in good.items() if key != name}, config)
    with pytest.raises(ArtifactError, match="do not fit"):
        index.load(good, ProductIndexConfig(codes=4, bits=8))


def test_exact_search_over_the_decoded_vectors_agrees() -> None:
    codes, centroids = parts_of(9000, 16, 4, 4, seed=7, whole=False)
    built = ProductIndex(codes, centroids)  # large enough to be scanned
    assert built._whole is None
    vectors = decoded(codes, centroids)
    truth = index.build(vectors, ExactConfig())
    queries = np.random.default_rng(8).standard_normal((30, 64)).astype(np.float32)
    assert index.recall(built, truth, queries, k=50) == 1
    found, want = built.search(queries, 50), truth.search(queries, 50)
    assert found.scores == pytest.approx(want.scores, rel=1e-5)
    assert np.array_equal(built.scores(queries, found.rows), found.scores)


def test_an_item_costs_its_codes_twice() -> None:
    codes, centroids = parts_of(9000, 16, 4, 4, seed=7)
    built = ProductIndex(codes, centroids)
    assert built.arrays()["codes"] is not None
    assert built._codes.nbytes == 9001 * 8
    assert built._scan.codes.size() <= 9001 * 8 + 32 * 8
