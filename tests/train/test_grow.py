"""Trees as plain arrays, against LightGBM itself and by hand."""

from typing import Any

import lightgbm
import numpy as np
import pytest
import torch

from millirec.data.errors import ConfigError
from millirec.data.features import Features, Ragged, Schema
from millirec.data.features.schema import ListSpace, SequenceSpace, Space
from millirec.models.base import RankInputs
from millirec.models.rankers.trees import Trees, TreesConfig
from millirec.train.grow import check_grown, forest_of
from millirec.train.rank_config import RankTrainConfig

SCHEMA = Schema(categorical=(Space(name="a", size=150), Space(name="b", size=3)), numbers=("x", "y"))


def drawn(n: int = 3000, seed: int = 0) -> tuple[Features, np.ndarray]:
    """A label that hangs on ids in no order, and on numbers; some numbers fall exactly on thresholds."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.integers(0, 151, n), rng.integers(0, 4, n)], axis=1).astype(np.int32)
    numbers = np.stack([rng.normal(size=n), rng.integers(-3, 4, n) / 7], axis=1).astype(np.float32)
    said = (ids[:, 0] * 7919 % 5 < 2) ^ (numbers[:, 0] > 0) ^ (numbers[:, 1] > 0.2)
    return Features(ids, numbers), said ^ (rng.random(n) < 0.1)


def grown(network: Trees, rows: Features, labels: np.ndarray, **more: Any) -> lightgbm.Booster:
    columns = network.read(RankInputs.of(rows, network.schema)).numpy()
    settings = {"objective": "binary", "num_leaves": 31, "verbose": -1, "num_threads": 1, "use_missing": False, **more}
    return lightgbm.train(settings, lightgbm.Dataset(columns, labels, categorical_feature=[0, 1]), 30)


@pytest.mark.parametrize("together", [7, 64])
def test_arrays_say_what_lightgbm_says(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millirec.models.rankers.trees._TOGETHER", together)
    network = Trees(TreesConfig(), SCHEMA)
    rows, labels = drawn()
    booster = grown(network, rows, labels, max_cat_threshold=64, min_data_per_group=5)
    network.load_state_dict(forest_of(booster.dump_model()["tree_info"]) | {"gains": torch.zeros(4)})
    fresh, _ = drawn(2000, seed=1)
    fresh.ids[:50, 0] = 1000  # an id that no set has room for
    inputs = RankInputs.of(fresh, SCHEMA)
    expected = booster.predict(network.read(inputs).numpy(), raw_score=True)
    assert np.ptp(expected) > 4
    assert network(inputs).numpy() == pytest.approx(expected, abs=1e-5)


def test_a_tree_by_hand() -> None:
    """x <= 0.1 says 1; else id of a in {2, 33} says 2, the others 3. A second tree is one leaf of 10."""
    leaf = {"leaf_value": 1.0}
    among = {"split_feature": 0, "decision_type": "==", "threshold": "2||33"}
    inner = among | {"left_child": {"leaf_value": 2.0}, "right_child": {"leaf_value": 3.0}}
    root = {"split_feature": 2, "decision_type": "<=", "threshold": 0.1, "left_child": leaf, "right_child": inner}
    forest = forest_of([{"tree_structure": root}, {"tree_structure": {"leaf_value": 10.0}}])
    network = Trees(TreesConfig(), SCHEMA)
    network.load_state_dict(forest | {"gains": torch.zeros(4)})
    ids = np.array([[0, 0], [2, 0], [33, 0], [1, 0], [34, 0], [64, 0]], np.int32)
    numbers = np.zeros((6, 2), np.float32)
    numbers[1:, 0] = 0.2
    numbers[0, 0] = np.float32(0.0999)
    assert network(RankInputs.of(Features(ids, numbers), SCHEMA)).tolist() == [11, 12, 12, 13, 13, 13]


def test_a_threshold_between_two_floats_divides_as_before() -> None:
    """The float32 next to 0.1 lies above it: it must go right."""
    near = float(np.float32(0.1))
    assert near > 0.1
    split = {"split_feature": 2, "decision_type": "<=", "threshold": 0.1}
    root = split | {"left_child": {"leaf_value": 1.0}, "right_child": {"leaf_value": 2.0}}
    network = Trees(TreesConfig(), SCHEMA)
    network.load_state_dict(forest_of([{"tree_structure": root}]) | {"gains": torch.zeros(4)})
    numbers = np.array([[near, 0], [np.nextafter(np.float32(near), np.float32(0)), 0]], np.float32)
    assert network(RankInputs.of(Features(np.zeros((2, 2), np.int32), numbers), SCHEMA)).tolist() == [2, 1]


def test_what_trees_ask_of_lists_and_sequences() -> None:
    """Frequent values of a list are columns; a sequence tells its length, and how often it holds the row's item."""
    schema = Schema(
        categorical=(Space(name="item", size=3),),
        lists=(ListSpace(name="tags", size=9, width=3),),
        numbers=("x",),
        sequences=(SequenceSpace(name="seen", length=4, of=0),),
    )
    tags = Ragged(np.array([2, 9, 1], np.int32), np.array([0, 3]), np.array([3, 3]))
    seen = Ragged(np.array([3, 1, 3], np.int32), np.array([0, 0]), np.array([3, 0]))
    rows = Features(np.array([[3], [1]], np.int32), np.array([[0.5], [1]], np.float32), (tags,), (seen,))
    network = Trees(TreesConfig(most_values=2), schema)
    assert network.read(RankInputs.of(rows, schema)).tolist() == [[3, 1, 1, 0.5, 3, 2], [1, 0, 0, 1, 0, 0]]


def test_settings_of_epochs_are_refused() -> None:
    check_grown(RankTrainConfig(monitor="log_loss", calibration="isotonic"))
    with pytest.raises(ConfigError, match=r"\$\.train\.epochs: trees are not trained in epochs"):
        check_grown(RankTrainConfig(epochs=3))


@pytest.mark.parametrize(("field", "value"), [("leaves", 1), ("trees", 0), ("row_share", 0.0), ("embedding_dim", 4)])
def test_ranges_are_checked(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"\$\.ranker\.{field}"):
        TreesConfig(**{field: value})
