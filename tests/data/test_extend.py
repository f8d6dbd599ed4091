import numpy as np
import pytest

from millirec.data.catalog import Catalog, Categorical, MultiValued, Numeric, Text, Vocabulary
from millirec.data.dataset import Dataset, Interactions
from millirec.data.extend import extended


def catalog(ids: str, *, genres: tuple[str, ...] = ("war", "love")) -> Catalog:
    """Ids of one letter; each item's features are functions of its letter."""
    n, codes = len(ids), [ord(name) % 2 for name in ids]
    features = {
        "genre": Categorical(genres, np.array([-1, *codes], np.int32)),
        "tags": MultiValued((*"abcdefg",), np.array([ord(i) - 97 for i in ids], np.int32), _offsets(n)),
        "price": Numeric(np.array([np.nan, *map(ord, ids)], np.float32)),
        "title": Text(("", *(name.upper() for name in ids))),
    }
    return Catalog(Vocabulary(list(ids)), features)


def _offsets(n: int) -> np.ndarray:
    return np.r_[0, np.arange(n + 1)].astype(np.int32)


def log(ids: str, items: Catalog) -> Dataset:
    """One user meets these items a second apart."""
    rows = items.vocabulary.rows(ids)
    times = np.arange(len(ids)) * 1000
    users = np.ones(len(ids), np.int32)
    return Dataset.of(Interactions(users, rows, times.astype(np.int64)), items, Catalog(Vocabulary(["u"])))


def test_old_items_keep_their_rows_lost_ones_too_and_new_ones_follow() -> None:
    new = extended(log("dacbf", catalog("dacbf")), catalog("abce"))
    assert new.items.vocabulary.ids == (*"abcedf",)
    assert [new.items.vocabulary.id(row) for row in new.interactions.items] == [*"dacbf"]


def test_a_row_keeps_its_features_whoever_knows_them() -> None:
    """`e` is known to the older catalogue only, whose genres stand in another order."""
    items = extended(log("dacbf", catalog("dacbf")), catalog("abce", genres=("love", "war"))).items
    for row, name in enumerate("abcedf", start=1):
        genre = ("war", "love")[ord(name) % 2] if name != "e" else "war"
        assert items.matches("genre", genre)[row]
        assert items.matches("tags", name).nonzero()[0].tolist() == [row]
        assert items.features["price"].numbers[row] == ord(name)
        assert items.features["title"].texts[row] == name.upper()
    assert not items.matches("genre", "war")[0]


def test_a_column_that_only_one_side_has() -> None:
    older = Catalog(Vocabulary([*"xe"]), {"title": Numeric(np.zeros(3, np.float32)), "size": Text(("", "S", "M"))})
    items = extended(log("dx", catalog("dx")), older).items
    assert set(items.features) == {"genre", "tags", "price", "title"}
    assert items.features["title"].texts == ("", "X", "", "D")
    assert np.isnan(items.features["price"].numbers[2])
    assert items.features["genre"].codes[2] == -1


@pytest.mark.parametrize("older", ["", "d", "dacbf"])
def test_rows_that_begin_with_the_older_ones_are_left_alone(older: str) -> None:
    dataset = log("dacbf", catalog("dacbf"))
    assert extended(dataset, catalog(older)) is dataset


def test_to_extend_again_by_the_result_changes_nothing() -> None:
    """So a checkpoint that was started warm finds its own rows when its data is read anew."""
    fresh = log("dacbf", catalog("dacbf"))
    once = extended(fresh, catalog("abce"))
    again = extended(fresh, once.items)
    assert again.items.vocabulary.ids == once.items.vocabulary.ids
    assert again.fingerprint == once.fingerprint != fresh.fingerprint
