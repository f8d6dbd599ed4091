"""`grow`: LightGBM learns a forest, which becomes plain arrays."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from millirec.data.dataset import TRAIN, VALIDATION
from millirec.data.errors import ConfigError
from millirec.data.features import RankingRows
from millirec.models.base import RankInputs
from millirec.models.rankers.trees import Trees, TreesConfig
from millirec.train.journal import Journal
from millirec.train.machine import Machine
from millirec.train.rank_config import RankTrainConfig

_READ = ("monitor", "calibration")
_ROWS = 65_536
_METRICS = {"auc": "auc", "log_loss": "binary_logloss"}


def check_grown(train: RankTrainConfig) -> None:
    """Raises ConfigError for a setting of [train] that says nothing to trees."""
    plain = RankTrainConfig()
    for name in train.__struct_fields__:
        if name not in _READ and getattr(train, name) != getattr(plain, name):
            raise ConfigError(
                f"$.train.{name}: trees are not trained in epochs", "leave it out, and set $.ranker's own"
            )


def grow(
    network: Trees, rows: RankingRows, train: RankTrainConfig, machine: Machine, journal: Journal
) -> tuple[dict[str, Tensor], int]:
    """The parameters of `network`, and how many trees were grown: those after the best one are left out.

    Raises ConfigError when LightGBM is not installed.
    """
    try:
        import lightgbm
    except ImportError as error:
        raise ConfigError(
            "$.ranker.kind = 'trees': LightGBM is not installed", "pip install 'millirec[trees]'"
        ) from error
    check_grown(train)
    config = network.config
    parts = [rows.part(role) for role in (TRAIN, VALIDATION)]
    ids, settings = list(range(len(network.schema.categorical))), _settings(config, train, machine)
    learned, held = (
        lightgbm.Dataset(_columns(network, rows, part), rows.labels[part], categorical_feature=ids, params=settings)
        for part in parts
    )
    journal.epoch(0, config.trees, 0)
    found: dict[str, Any] = {}
    stop = lightgbm.early_stopping(config.patience, first_metric_only=True, verbose=False)
    callbacks: list[Callable[..., Any]] = [stop, lightgbm.record_evaluation(found), lambda _: journal.batch(0.0)]
    booster = lightgbm.train(settings, learned, config.trees, [held], ["validation"], callbacks=callbacks)
    best = booster.best_iteration or booster.current_iteration()
    figures = {name: found["validation"][metric][best - 1] for name, metric in _METRICS.items()}
    journal.validated(0, figures, best=True)
    forest = forest_of(booster.dump_model(num_iteration=best)["tree_info"])
    gains = torch.from_numpy(booster.feature_importance("gain", iteration=best).astype(np.float32))
    return forest | {"gains": gains}, len(found["validation"]["auc"])


def _settings(config: TreesConfig, train: RankTrainConfig, machine: Machine) -> dict[str, Any]:
    metrics = [_METRICS[train.monitor], *(m for name, m in _METRICS.items() if name != train.monitor)]
    return {
        "objective": "binary",
        "metric": metrics,
        "num_leaves": config.leaves,
        "learning_rate": config.learning_rate,
        "min_data_in_leaf": config.min_rows,
        "lambda_l2": config.l2,
        "bagging_fraction": config.row_share,
        "bagging_freq": int(config.row_share < 1),
        "feature_fraction": config.column_share,
        "cat_smooth": config.smoothing,
        "cat_l2": config.l2,
        "max_cat_threshold": 1024,
        "min_data_per_group": 1,
        "num_threads": machine.threads,
        "seed": machine.seed,
        "deterministic": True,
        "force_row_wise": True,
        "use_missing": False,
        "verbose": -1,
    }


def _columns(network: Trees, rows: RankingRows, part: NDArray[np.int64]) -> NDArray[np.float32]:
    found = []
    for at in range(0, len(part), _ROWS):
        inputs = RankInputs.of(rows.features.take(part[at : at + _ROWS]), network.schema)
        found.append(network.read(inputs).numpy())
    return np.concatenate(found)


@dataclass
class _Tree:
    """The nodes of one tree, the root first."""

    column: list[int] = field(default_factory=list)
    below: list[float] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    words: list[tuple[int, int]] = field(default_factory=list)
    leaves: list[float] = field(default_factory=list)

    def add(self, node: dict[str, Any], sets: list[int]) -> int:
        """Append a node of LightGBM's and all below it; returns its place."""
        at = len(self.column)
        self.column.append(node.get("split_feature", 0))
        self.leaves.append(node.get("leaf_value", 0.0))
        self.below.append(0.0)
        self.words.append((0, 0))
        self.left.append(at)
        self.right.append(at)
        if "split_feature" not in node:
            return at
        if node["decision_type"] == "==":
            bits = _bits([int(value) for value in node["threshold"].split("||")])
            self.words[at] = (len(sets), len(bits))
            sets.extend(bits)
        else:
            self.below[at] = _floor(node["threshold"])
        self.left[at] = self.add(node["left_child"], sets)
        self.right[at] = self.add(node["right_child"], sets)
        return at


def forest_of(trees: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The arrays of `Trees`, save `gains`, from the `tree_info` of LightGBM's `dump_model`."""
    sets: list[int] = []
    grown = []
    for tree in trees:
        grown.append(_Tree())
        grown[-1].add(tree["tree_structure"], sets)
    size = max(len(tree.column) for tree in grown)
    arrays: dict[str, Tensor] = {"sets": torch.tensor(sets or [0], dtype=torch.int64).to(torch.int32)}
    for name, kind in (("column", torch.int32), ("left", torch.int32), ("right", torch.int32)):
        arrays[name] = torch.tensor([list(_padded(getattr(t, name), size, 0)) for t in grown], dtype=kind)
    for name in ("below", "leaves"):
        arrays[name] = torch.tensor([list(_padded(getattr(t, name), size, 0.0)) for t in grown])
    arrays["words"] = torch.tensor([list(_padded(t.words, size, (0, 0))) for t in grown], dtype=torch.int32)
    return arrays


def _padded(values: list[Any], size: int, end: Any) -> Iterator[Any]:
    yield from values
    yield from [end] * (size - len(values))


def _bits(ids: list[int]) -> list[int]:
    """A set of ids as words of 32 bits, in the range of int32."""
    words = [0] * (max(ids) // 32 + 1)
    for value in ids:
        words[value // 32] |= 1 << (value % 32)
    return [word - 2**32 if word >= 2**31 else word for word in words]


def _floor(threshold: float) -> float:
    """The largest float32 that is not above: for float32 numbers the question stays the same."""
    near = np.float32(threshold)
    return float(np.nextafter(near, np.float32(-np.inf)) if float(near) > threshold else near)
