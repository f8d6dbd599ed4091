"""Unstructured pruning of rankers: the weights that matter least become zero. Files get smaller, answers no faster."""

from dataclasses import replace
from typing import Literal, get_args

import msgspec

from millirec.compress.rankers.base import RankerWorkshop, check_network, measured, recovered
from millirec.compress.sparsity import Kind, alive, least, least_of_all, prunable
from millirec.data.errors import ConfigError
from millirec.data.features import Schema
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.models.rankers.config import RankerConfig
from millirec.train.fit_ranker import training_of
from millirec.train.rank_config import RankTrainConfig


class PruneRanker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="prune"):
    """The smallest weights become zero: a share of `sparsity`, of each parameter (`scope` = "layer") or of all together
    ("global"); of "linear" layers, of vectors of values ("embedding"), or both. With `train` the network learns on, its
    zeros fixed.
    """

    sparsity: float
    scope: Literal["layer", "global"] = "layer"
    include: tuple[Kind, ...] = get_args(Kind)
    train: RankTrainConfig | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise ConfigError(f"sparsity = {self.sparsity}", "choose a share above 0 and below 1")
        if self.scope not in ("layer", "global"):
            raise ConfigError(f"scope = {self.scope!r}", "use layer or global")
        if not self.include or not set(self.include) <= set(get_args(Kind)):
            raise ConfigError(f"include = {list(self.include)}", f"name one or more of {', '.join(get_args(Kind))}")

    @property
    def needs_data(self) -> bool:
        """Training and calibration read rows."""
        return True

    def rewritten(self, config: RankerConfig, schema: Schema) -> RankerConfig:
        """The same config: zeros are values like others."""
        del schema
        check_network(config, "weights to prune")
        if config.weights not in ("fp32", "fp16", "bf16") or config.table_bits is not None:
            raise ConfigError("the ranker is quantised already", "prune before it is quantised")
        return config

    def apply(self, checkpoint: RankerCheckpoint, workshop: RankerWorkshop) -> RankerCheckpoint:
        """Prune, train on if asked to, calibrate and measure."""
        weights = {name: weight.detach() for name, weight in prunable(checkpoint.network(), self.include).items()}
        scores = alive({name: weight.abs() for name, weight in weights.items()}, weights)
        if self.scope == "global":
            drop = least_of_all(scores, round(self.sparsity * sum(weight.numel() for weight in weights.values())))
        else:
            drop = {name: least(score, round(self.sparsity * score.numel())) for name, score in scores.items()}
        pruned = {name: weight.masked_fill(drop[name], 0.0) for name, weight in weights.items()}
        made = replace(checkpoint, parameters=checkpoint.parameters | pruned)
        if self.train is not None:
            return recovered(made, made.network(), self.train, workshop)
        return measured(made, workshop.rows(made), training_of(checkpoint))
