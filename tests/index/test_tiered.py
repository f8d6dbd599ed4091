"""Two tiers of codes: which row is of which tier, exactness, what is not scanned, what is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from millirec import index
from millirec.data.errors import ArtifactError, ConfigError
from millirec.index import ProductIndex, TieredIndex, TieredIndexConfig, product
from millirec.index.product import decoded
from tests.index.test_product import parts_of

CONFIG = TieredIndexConfig(fine_codes=4, codes=2)


def arrays_of(n: int, seed: int, *, share: float = 0.4) -> dict[str, np.ndarray]:
    """A table of n items with whole numbers, so that sums are exact: 4 codes for a fine item, 2 for a coarse one."""
    fine = np.random.default_rng(seed).random(n + 1) < share
    fine[0] = False
    slots = np.cumsum(fine, dtype=np.int32)[:, None]
    arrays = {"slots": slots}
    for name, count, codes, width in (("fine", slots[-1, 0], 4, 1), ("coarse", n - slots[-1, 0], 2, 2)):
        arrays[f"{name}.codes"], arrays[f"{name}.centroids"] = parts_of(count, codes, 4, width, seed)
    return arrays


def whole(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """All vectors (n + 1, 4), row by row."""
    slots, out = arrays["slots"][:, 0], [np.zeros(4)]
    fine, coarse = (decoded(arrays[f"{name}.codes"], arrays[f"{name}.centroids"]) for name in ("fine", "coarse"))
    rows = range(1, len(slots))
    out += [fine[slots[row]] if slots[row] > slots[row - 1] else coarse[row - slots[row]] for row in rows]
    return np.array(out, np.float32)


def test_by_hand() -> None:
    # five items, 2 and 5 are fine: an item's number is what its first code stands for, and fine ones lie 100 higher
    numbers = {"fine": [0, 3, 1], "coarse": [0, 2, 9, 4]}
    arrays: dict[str, Any] = {"slots": np.array([0, 0, 1, 1, 1, 2], np.int32)[:, None]}
    for name, own in numbers.items():
        arrays[f"{name}.codes"] = np.array(own, np.uint8)[:, None]  # the second code, in the upper half, is 0
        arrays[f"{name}.centroids"] = np.zeros((2, 16, 1), np.float32)
        arrays[f"{name}.centroids"][0, :, 0] = np.arange(16) + (100 if name == "fine" else 0)
    built = TieredIndex.of_table(arrays)
    assert (built.n_items, built.dim) == (5, 2)
    assert built.vectors(np.arange(1, 6, dtype=np.int32))[:, 0].tolist() == [2, 103, 9, 4, 101]
    found = built.search(np.array([[1, 0], [-1, 0]], np.float32), 4)
    assert found.rows.tolist() == [[2, 5, 3, 4], [1, 4, 3, 5]]
    assert found.scores.tolist() == [[103, 101, 9, 4], [-2, -4, -9, -101]]
    assert built.scores(np.array([[1, 5]], np.float32), np.array([[0, 5, 1]], np.int32)).tolist() == [[-np.inf, 101, 2]]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(2, 400),
    share=st.sampled_from([0.02, 0.4, 0.97]),
    k=st.sampled_from([1, 7, 150, 500]),
    scan_from=st.sampled_from([1, 100, 10_000]),
)
def test_it_finds_what_brute_force_finds(seed: int, n: int, share: float, k: int, scan_from: int) -> None:
    arrays = arrays_of(n, seed, share=share)
    assume(0 < arrays["slots"][-1, 0] < n)
    queries = np.random.default_rng(seed + 1).integers(-4, 5, (5, 4)).astype(np.float32)
    queries[3] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "_SCAN_FROM", scan_from)
        built = TieredIndex.of_table(arrays)
        found = built.search(queries, k)
    vectors = whole(arrays)
    scores = (queries @ vectors.T)[:, 1:]
    for b, line in enumerate(scores):
        best = np.lexsort((np.arange(n), -line))[:k]
        assert found.rows[b, : len(best)].tolist() == (best + 1).tolist()
        assert found.scores[b, : len(best)].tolist() == line[best].tolist()
        assert (found.rows[b, len(best) :] == 0).all()
    rows = np.arange(n + 1, dtype=np.int32)
    assert np.array_equal(built.vectors(rows)[1:], vectors[1:])
    assert np.array_equal(built.scores(queries, np.tile(rows, (5, 1)))[:, 1:], scores)


def test_coarse_items_that_cannot_win_are_not_scanned(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = arrays_of(300, seed=1)
    arrays["coarse.centroids"] *= 2.0**-10
    asked: list[int] = []
    search = ProductIndex.search
    monkeypatch.setattr(
        ProductIndex, "search", lambda self, vectors, k: (asked.append(len(vectors)), search(self, vectors, k))[1]
    )
    built = TieredIndex.of_table(arrays)
    queries = np.random.default_rng(2).integers(1, 5, (6, 4)).astype(np.float32)
    queries[5] = 0  # a tie of all items: the coarse ones have to be seen
    found = built.search(queries, 5)
    assert asked == [6, 1]
    scores = queries @ whole(arrays).T
    for b in range(5):
        assert found.rows[b].tolist() == (np.lexsort((np.arange(300), -scores[b, 1:]))[:5] + 1).tolist()
    assert found.rows[5].tolist() == [1, 2, 3, 4, 5]
    # where the list is longer than the fine tier, all are needed
    asked.clear()
    built.search(queries[:2], 200)
    assert asked == [2, 2]


def test_no_score_lies_above_the_bound() -> None:
    rng = np.random.default_rng(3)
    codes, centroids = parts_of(400, 16, 4, 2, seed=3, whole=False)
    built = ProductIndex(codes, centroids)
    queries = (rng.standard_normal((200, 32)) * 10.0 ** rng.integers(-3, 4, (200, 1))).astype(np.float32)
    most = built.most(queries)
    best = built.search(queries, 1).scores[:, 0]
    assert (best <= most).all()
    assert np.isnan(built.most(np.full((1, 32), np.nan, np.float32))).all()
    # an item that has the best sub-vector everywhere reaches it
    codes[1] = 0
    centroids[:, 0] = 4
    assert ProductIndex(codes, centroids).search(np.ones((1, 32), np.float32), 1).scores[0, 0] == 128


@pytest.mark.parametrize(
    "damage",
    [
        lambda a: {"slots": a["slots"][:-1]},
        lambda a: {"slots": a["slots"].astype(np.int64)},
        lambda a: {"slots": a["slots"] + 1},
        lambda a: {"slots": a["slots"] * 2},
        lambda a: {"slots": a["slots"][::-1].copy()},
        lambda a: {"slots": a["slots"].ravel()},
        lambda a: {"fine.codes": a["fine.codes"][1:]},
        lambda a: {"fine.codes": a["fine.codes"][:, :1]},
        lambda a: {"coarse.codes": a["coarse.codes"][1:]},
        lambda a: {"coarse.centroids": a["coarse.centroids"][:, :, :1]},
        lambda a: {"coarse.centroids": a["coarse.centroids"].astype(np.float64)},
    ],
)
def test_damaged_arrays_are_refused(damage: Any) -> None:
    arrays = arrays_of(50, seed=4)
    assert index.load(arrays, CONFIG).n_items == 50
    with pytest.raises(ArtifactError, match="pack again"):
        index.load(arrays | damage(arrays), CONFIG)
    for name in arrays:
        with pytest.raises(ArtifactError):
            index.load({key: value for key, value in arrays.items() if key != name}, CONFIG)
    with pytest.raises(ArtifactError, match=r"no 'fine\.codes'"):
        TieredIndex.of_table({"slots": arrays["slots"]})


def test_it_is_not_made_from_vectors_and_settings_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match='"tiered" is not made from vectors'):
        index.build(np.zeros((9, 8), np.float32), CONFIG)
    for field, value in (
        ("fine_codes", 0),
        ("fine_codes", 3),
        ("codes", 0),
        ("codes", 3),
        ("bits", 2),
        ("code_bits", 5),
    ):
        with pytest.raises(ConfigError, match=rf"\$\.index\.{field} = {value}"):
            TieredIndexConfig(**{field: value})  # type: ignore[arg-type]
