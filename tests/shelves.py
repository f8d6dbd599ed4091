"""Small shelves for tests of the cascade: random vectors, a genre and tags of each item, no bundle."""

import numpy as np

from millirec.cascade.query import Asked, Candidates, Ranking, Shelf
from millirec.data.catalog import Catalog, Categorical, MultiValued, Numeric, Vocabulary
from millirec.index import ExactConfig, IndexConfig, build

NONE = np.empty(0, np.int32)
GENRES, TAGS = ("comedy", "drama", "war"), ("new", "long", "old", "loud")


def shelf_of(n: int, dim: int = 4, seed: int = 0, index: IndexConfig | None = None) -> Shelf:
    """Items i1..in: item r has genre `GENRES[r % 3]` but every 7th, random tags, and the price r but every 5th."""
    rng = np.random.default_rng(seed)
    vectors = np.rint(8 * rng.normal(size=(n + 1, dim))).astype(np.float32) / 8
    popularity = np.concatenate([[0], rng.integers(0, 5, n)])
    rows = np.arange(n + 1)
    genre = Categorical(GENRES, np.where((rows > 0) & (rows % 7 > 0), rows % 3, -1).astype(np.int32))
    has = rng.random((n + 1, len(TAGS))) < 0.4
    has[0] = False
    offsets = np.concatenate([[0], has.sum(axis=1).cumsum()]).astype(np.int32)
    tags = MultiValued(TAGS, np.nonzero(has)[1].astype(np.int32), offsets)
    price = Numeric(np.where(rows % 5, rows, np.nan).astype(np.float32))
    features = {"genre": genre, "tags": tags, "price": price}
    catalog = Catalog(Vocabulary([f"i{row}" for row in range(1, n + 1)]), features)
    return Shelf(catalog, build(vectors, index or ExactConfig()), popularity)


def ask(k: int = 5, vector: list[float] | None = None, **fields: object) -> Asked:
    """A question in rows; lists become arrays of rows."""
    arrays = {name: np.array(value, np.int32) for name, value in fields.items() if isinstance(value, list)}
    fields = {"seen": NONE, "exclude": NONE, **fields, **arrays}
    return Asked(k, None if vector is None else np.array(vector, np.float32), **fields)  # type: ignore[arg-type]


def rows_of(found: Ranking | Candidates) -> list[int]:
    """The rows of an answer."""
    if isinstance(found, Candidates):
        return found.rows.tolist()
    return [int(item[1:]) for item in found.items]


def candidates(scores: list[float], rows: list[int] | None = None) -> Candidates:
    """Candidates with these scores, rows 1.. when none are given."""
    names = np.arange(1, len(scores) + 1) if rows is None else np.array(rows)
    return Candidates(names.astype(np.int32), np.array(scores, np.float32), "x")
