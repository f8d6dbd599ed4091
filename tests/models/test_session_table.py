"""Sessions vote as VMIS-kNN scores, by hand and against the network; damaged tables are refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millirec.data.errors import ArtifactError
from millirec.models.config import build
from millirec.models.session_table import SessionTable
from millirec.models.vmis_knn import VMISKNN, VMISKNNConfig
from tests.models.test_counting_models import N_ITEMS, inputs_of, log

# Session 0 took items 1 and 2, session 1 took 2 and 3, session 2 took 1 and 3, session 3 took 4.
BY_ITEM, BY_SESSION = [[], [0, 2], [0, 1], [1, 2], [3]], [[1, 2], [2, 3], [1, 3], [4]]
IDF = np.array([0, 1, 2, 4, 8], np.float32)
MODEL = {"sessions": 10, "neighbours": 10, "max_length": 2, "decay": 4}


def ragged(parts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.cumsum([len(part) for part in parts]), np.array([row for part in parts for row in part], np.int32)


def arrays() -> dict[str, np.ndarray]:
    (item_stops, item_sessions), (session_stops, session_items) = ragged(BY_ITEM), ragged(BY_SESSION)
    names = ("item_stops", "item_sessions", "session_stops", "session_items", "idf")
    return dict(zip(names, (item_stops, item_sessions, session_stops, session_items, IDF), strict=True))


def votes(history: list[int], **settings: int) -> dict[int, float]:
    found = SessionTable.read(arrays(), MODEL | settings).votes(np.array(history, np.int32))
    assert [part.dtype for part in found] == [np.int32, np.float32]
    assert (np.diff(found[0]) > 0).all()
    return dict(zip(found[0].tolist(), found[1].tolist(), strict=True))


def test_votes_by_hand() -> None:
    assert votes([1]) == {1: 2, 2: 2, 3: 4}  # both sessions with item 1, alike 1, no decay
    # Session 0 shares both (likeness 1/2 + 1), session 1 the newest (1), session 2 the older one: 1/2, decayed by 1/4.
    assert votes([1, 2]) == pytest.approx({1: 1.5 + 0.375, 2: 2 * 2.5, 3: 4 * (1 + 0.375)})
    assert votes([4, 1, 2]) == votes([1, 2])  # what is older than max_length is not read
    assert votes([1, 0, 2]) == votes([1, 2])  # what the model does not know takes no place
    assert votes([2, 2]) == pytest.approx(votes([2]))  # an item that comes again asks once, at its newest place
    assert votes([]) == votes([0]) == {}


def test_the_newest_are_looked_at_and_the_most_alike_vote() -> None:
    assert votes([1], sessions=1) == {1: 1, 3: 4}
    assert votes([1, 2], neighbours=1) == {1: 1.5, 2: 3}
    assert votes([1], neighbours=1) == {1: 1, 3: 4}  # of equals the newer
    assert votes([1, 2], decay=1) == {1: 1.5, 2: 5, 3: 4}  # session 2 shares nothing that is new enough


@given(
    st.integers(0, 3),
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), st.integers(1, 6)),
    st.lists(st.integers(1, N_ITEMS), min_size=1, max_size=9),
)
def test_sessions_vote_as_the_model_scores(seed: int, settings: tuple[int, int, int, int], history: list[int]) -> None:
    sessions, neighbours, length, decay = settings
    config = VMISKNNConfig(sessions=sessions, neighbours=neighbours, max_length=length, decay=decay)
    model = build(config, N_ITEMS)
    assert isinstance(model, VMISKNN)
    model.fit(*log(seed))
    rows, counted = model.count_table().votes(np.array(history, np.int32))
    scores = np.zeros(N_ITEMS + 1, np.float32)
    scores[rows] = counted
    np.testing.assert_allclose(scores, model.scores(inputs_of(history))[0].numpy(), rtol=1e-5, atol=1e-6)


def test_a_table_comes_back_from_its_arrays() -> None:
    table = SessionTable.read(arrays(), MODEL)
    again = SessionTable.read(table.arrays(), MODEL)
    assert table.n_rows == 5
    np.testing.assert_array_equal(again.votes(np.array([1, 2], np.int32)), table.votes(np.array([1, 2], np.int32)))


@pytest.mark.parametrize(
    "change",
    [
        {"item_stops": np.array([0, 2, 1, 6, 7])},
        {"item_stops": np.array([0, 2, 4, 6, 8])},
        {"session_stops": np.array([2, 4, 6])},
        {"item_sessions": np.array([0, 2, 0, 1, 1, 2, 4])},
        {"item_sessions": np.array([-1, 2, 0, 1, 1, 2, 3])},
        {"session_items": np.array([0, 2, 2, 3, 1, 3, 4])},
        {"session_items": np.array([1, 2, 2, 3, 1, 3, 5])},
        {"idf": np.array([0, 1, 2, 4])},
        {"idf": np.array([0, 1, 2, math.nan, 8])},
        {"idf": np.array([0, 1, 2, -4, 8])},
        {"idf": None},
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, np.ndarray | None]) -> None:
    given_arrays = {name: array for name, array in (arrays() | change).items() if array is not None}
    with pytest.raises(ArtifactError, match="sessions"):
        SessionTable.read(given_arrays, MODEL)


@pytest.mark.parametrize("change", [{"sessions": 0}, {"decay": "4"}, {"neighbours": None}, {"max_length": 1.5}])
def test_settings_that_cannot_be_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ArtifactError, match="sessions"):
        SessionTable.read(arrays(), MODEL | change)
