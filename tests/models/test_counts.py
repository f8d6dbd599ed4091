"""Votes and what they add, by hand and against a dense reading; damaged tables are refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from millirec.data.errors import ArtifactError, ConfigError
from millirec.models import counts
from millirec.models.base import Counted, Inputs
from millirec.models.config import EASEConfig, ItemKNNConfig, MarkovConfig, PopularityConfig, VMISKNNConfig, build
from millirec.models.counts import CountTable, Gain, gained, summed
from tests.logs import cycle

# Item 1 goes with 2 (weight .5) and 3 (.25), item 2 with 3 (1), item 3 with none.
ROWS = np.array([[0, 0], [2, 3], [3, 0], [0, 0]], np.int32)
WEIGHTS = np.array([[0, 0], [0.5, 0.25], [1, 0], [0, 0]], np.float32)


def table(length: int = 2) -> CountTable:
    return CountTable.of(ROWS, WEIGHTS, length)


def listed(found: tuple[np.ndarray, np.ndarray]) -> dict[int, float]:
    assert found[0].dtype == np.int32
    assert found[1].dtype == np.float32
    assert (np.diff(found[0]) > 0).all()
    return dict(zip(found[0].tolist(), found[1].tolist(), strict=True))


@pytest.mark.parametrize(
    ("history", "length", "votes"),
    [
        ([1], 2, {2: 0.5, 3: 0.25}),
        ([1, 2], 2, {2: 0.5, 3: 1.25}),
        ([2, 2], 2, {3: 2.0}),  # an event that comes again votes again
        ([1, 2], 1, {3: 1.0}),  # the newest alone
        ([1, 0], 1, {2: 0.5, 3: 0.25}),  # what the model does not know takes no place
        ([3], 2, {}),
        ([], 2, {}),
    ],
)
def test_votes_by_hand(history: list[int], length: int, votes: dict[int, float]) -> None:
    assert listed(table(length).votes(np.array(history, np.int32))) == votes


def test_gains_by_hand() -> None:
    gains = [Gain(weight=2.0, floor=0.5), Gain(weight=1.0, floor=0.25)]
    found = listed(gained([table(2), table(1)], gains, np.array([1, 2], np.int32)))
    assert found == pytest.approx({2: 2 * math.log(2), 3: 2 * math.log(3.5) + math.log(5)})
    assert listed(gained([table(1)], gains[:1], np.array([3], np.int32))) == {}


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 64)), max_size=60))
def test_both_ways_to_add_up_agree(pairs: list[tuple[int, int]]) -> None:
    rows = np.array([row for row, _ in pairs], np.int32)
    scores = np.array([score / 8 for _, score in pairs], np.float32)
    few, many = (listed(summed(rows, scores, n)) for n in (31, counts._COUNTED_WHOLE + 1))
    assert few == many
    assert few == {row: scores[rows == row].sum() for row in set(rows.tolist())}


@pytest.mark.parametrize("config", [MarkovConfig(shrink=0.0), ItemKNNConfig(max_length=3)])
def test_a_table_votes_as_the_model_scores(config: MarkovConfig | ItemKNNConfig) -> None:
    model, log = build(config, 12), cycle().interactions
    model.fit(*(torch.from_numpy(column) for column in (log.users, log.items, log.times)))
    history = np.array([5, 6, 7, 8], np.int32)
    zeros = torch.zeros(1, 4, dtype=torch.int64)
    inputs = Inputs(torch.from_numpy(history)[None], torch.tensor([4], dtype=torch.int32), zeros, zeros[:, 0])
    if isinstance(config, ItemKNNConfig):
        inputs = inputs._replace(items=inputs.items[:, 1:], lengths=inputs.lengths - 1)
    dense = model.scores(inputs)[0].numpy()
    votes = listed(model.count_table().votes(history))
    assert set(votes) == set(np.flatnonzero(dense[1:] > 1e-6) + 1)
    np.testing.assert_allclose([votes[row] for row in votes], dense[list(votes)], rtol=1e-3)


def test_who_counts_what_goes_with_an_item() -> None:
    counting = {type(c) for c in (MarkovConfig(), ItemKNNConfig(), VMISKNNConfig())}
    for config in (MarkovConfig(), ItemKNNConfig(), EASEConfig(), VMISKNNConfig(), PopularityConfig()):
        assert isinstance(build(config, 5), Counted) == (type(config) in counting)


def test_a_table_comes_back_from_its_arrays() -> None:
    again = CountTable.read(table().arrays(), 2)
    assert listed(again.votes(np.array([1, 2], np.int32))) == {2: 0.5, 3: 1.25}


@pytest.mark.parametrize(
    "change",
    [
        {"stops": np.array([0, 2, 1, 3])},
        {"stops": np.array([0, 2, 3, 4])},
        {"rows": np.array([2, 3, 4])},
        {"rows": np.array([2, 3, 0])},
        {"weights": np.array([1.0, 1.0])},
        {"weights": np.array([1.0, np.nan, 1.0])},
        {"weights": np.array([1.0, -1.0, 1.0])},
        {"weights": None},
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict[str, np.ndarray | None]) -> None:
    arrays = {name: array for name, array in (table().arrays() | change).items() if array is not None}
    with pytest.raises(ArtifactError, match="counts"):
        CountTable.read(arrays, 2)


def test_gains_that_are_none_are_refused() -> None:
    for weight, floor in ((0, 1), (-1, 1), (1, 0), (math.nan, 1), (1, math.inf)):
        with pytest.raises(ConfigError, match="a gain of weight"):
            Gain(weight=weight, floor=floor)
