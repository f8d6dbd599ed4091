"""Vocabularies and catalogues: ids, features, and their files."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millirec.data.catalog import Catalog, Categorical, MultiValued, Numeric, Text, Vocabulary
from millirec.data.errors import ArtifactError, DataError
from millirec.data.tensors import load_tensors, save_tensors


def catalog() -> Catalog:
    features = {
        "colour": Categorical(("blue", "red"), np.array([-1, 1, 0, -1, 1], np.int32)),
        "genres": MultiValued(
            ("a", "b", "c"), np.array([0, 2, 1, 0], np.int32), np.array([0, 0, 2, 2, 3, 4], np.int32)
        ),
        "year": Numeric(np.array([np.nan, 1999, 2000, np.nan, 2001], np.float32)),
        "vector": Numeric(np.arange(10, dtype=np.float32).reshape(5, 2)),
        "title": Text(("", "One", "Zwei äöü", "", "四")),
    }
    return Catalog(Vocabulary(["x", "y", "z", "ü"]), features)


@given(st.lists(st.text(max_size=5), unique=True, max_size=20))
def test_rows_and_ids_are_inverse_and_unknown_is_zero(ids: list[str]) -> None:
    vocabulary = Vocabulary(ids)
    assert [vocabulary.row(name) for name in ids] == list(range(1, len(ids) + 1))
    assert [vocabulary.id(row) for row in range(1, len(ids) + 1)] == ids
    assert vocabulary.rows([*ids, "longer than any"]).tolist() == [*range(1, len(ids) + 1), 0]
    assert len(vocabulary) == len(ids)


def test_an_id_twice_and_the_padding_row_are_refused() -> None:
    with pytest.raises(DataError, match="twice"):
        Vocabulary(["a", "b", "a"])
    for row in (0, -1, 2):
        with pytest.raises(IndexError):
            Vocabulary(["a"]).id(row)


def test_matches_categorical_and_multi_valued() -> None:
    items = catalog()
    assert items.matches("colour", "red").tolist() == [False, True, False, False, True]
    assert items.matches("genres", "a").tolist() == [False, True, False, False, True]
    assert items.matches("genres", "b").tolist() == [False, False, False, True, False]
    assert not items.matches("genres", "no such").any()
    for name in ("year", "title", "missing"):
        with pytest.raises(KeyError):
            items.matches(name, "1999")


@given(st.lists(st.lists(st.integers(0, 3), unique=True, max_size=4), max_size=12))
def test_matches_agrees_with_a_plain_search_through_the_lists(lists: list[list[int]]) -> None:
    offsets = np.cumsum([0, 0, *map(len, lists)]).astype(np.int32)
    codes = np.array([code for own in lists for code in own], np.int32)
    items = Catalog(
        Vocabulary([str(i) for i in range(len(lists))]), {"tags": MultiValued(("a", "b", "c", "d"), codes, offsets)}
    )
    for code, name in enumerate("abcd"):
        assert items.matches("tags", name).tolist() == [False, *(code in own for own in lists)]


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    items = catalog()
    items.save(tmp_path)
    again = Catalog.load(tmp_path)
    assert again.vocabulary.ids == items.vocabulary.ids
    assert list(again.features) == list(items.features)
    for name, feature in items.features.items():
        other = again.features[name]
        assert type(other) is type(feature)
        for field in feature.__slots__:
            mine, theirs = getattr(feature, field), getattr(other, field)
            if isinstance(mine, np.ndarray):
                np.testing.assert_array_equal(mine, theirs)
                assert mine.dtype == theirs.dtype
            else:
                assert mine == theirs


@pytest.mark.parametrize("damage", ["missing", "cut", "json", "kind"])
def test_damaged_files_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    catalog().save(tmp_path)
    path = tmp_path / "catalog.safetensors"
    arrays = load_tensors(path)
    head = arrays["__head__"].tobytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    else:
        plain = json.loads(head)
        plain["columns"]["colour"]["kind"] = "numeric"
        changed = head[:-5] if damage == "json" else json.dumps(plain).encode()
        save_tensors(arrays | {"__head__": np.frombuffer(changed, np.uint8)}, path)
    with pytest.raises(ArtifactError, match="catalog"):
        Catalog.load(tmp_path)


@pytest.mark.parametrize(
    ("ids", "numbers"),
    [
        (("7", "5", "-3", "9223372036854775807"), [7, 5, -3, 9223372036854775807]),
        (("7", "05"), None),
        (("7", "+5"), None),
        (("7", "1_0"), None),
        (("7", "\N{ARABIC-INDIC DIGIT FIVE}"), None),
        (("7", "9223372036854775808"), None),
        (("7", "a"), None),
        (("7", " 5"), None),
        (("7", ""), None),
    ],
)
def test_ids_that_are_whole_numbers_are_kept_as_such(tmp_path: Path, ids: tuple[str, ...], numbers: Any) -> None:
    Catalog(Vocabulary(ids)).save(tmp_path)
    arrays = load_tensors(tmp_path / "catalog.safetensors")
    assert arrays.get("__ids__", np.array(None)).tolist() == numbers
    assert Catalog.load(tmp_path).vocabulary.ids == ids


@given(st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=5), unique_by=str, max_size=20))
def test_any_ids_come_back(names: list[int | str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Catalog(Vocabulary([str(name) for name in names])).save(Path(folder))
        assert Catalog.load(Path(folder)).vocabulary.ids == tuple(map(str, names))


def test_rising_numbers_take_hardly_any_bytes(tmp_path: Path) -> None:
    Catalog(Vocabulary([str(number) for number in range(1, 50_001)])).save(tmp_path)
    assert (tmp_path / "catalog.safetensors").stat().st_size < 2000


@pytest.mark.parametrize("ids", [np.array([1.0, 2.0]), np.array([[1], [2]])])
def test_damaged_numbers_are_refused(tmp_path: Path, ids: Any) -> None:
    Catalog(Vocabulary(["1", "2"])).save(tmp_path)
    path = tmp_path / "catalog.safetensors"
    save_tensors(load_tensors(path) | {"__ids__": ids}, path)
    with pytest.raises(ArtifactError, match="catalog"):
        Catalog.load(tmp_path)
