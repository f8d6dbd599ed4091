"""Unstructured pruning: the weights that matter least become zero. Files get smaller; an answer gets no faster."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import msgspec
from torch import Tensor

from millirec.compress.importance import Importance, effects, weight_scores
from millirec.compress.recovery import check_network, measured, recovered
from millirec.compress.sparsity import Kind, alive, least, least_of_all, least_of_groups, prunable
from millirec.compress.workshop import Workshop
from millirec.data.errors import ConfigError
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig, build
from millirec.models.layers.table import Product, Quantized, Tiered
from millirec.train.config import TrainConfig

Scope = Literal["layer", "global", "row"]

_PATTERN = re.compile(r"(\d{1,3}):(\d{1,3})")


class Prune(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="prune"):
    """`sparsity`: the share of weights that become zero, of each parameter (`scope` = "layer"), of all together
    ("global"), or of each row of each, such as the vector of an item ("row"). Or `pattern` = "2:4": of each 4
    neighbours along the inputs of a layer at most 2 stay (Mishra et al., "Accelerating Sparse Deep Neural Networks",
    2021); any "n:m". `include`: weights of "linear" layers, and what is looked up ("embedding"). `importance`: see
    `compress.importance`; "taylor" reads `batches` batches.

    With `train` the network learns on, its zeros fixed. `stages` > 1 gets there gradually: after stage k of n the share
    is 1 - (1 - k / n)^3 of the whole way (Zhu and Gupta, "To prune, or not to prune", 2017). The epochs of `train` are
    shared out among the stages, and each begins its learning rate anew (Renda et al., "Comparing Rewinding and
    Fine-tuning in Neural Network Pruning", ICLR 2020).
    """

    sparsity: float | None = None
    pattern: str | None = None
    scope: Scope = "layer"
    importance: Importance = "magnitude"
    include: tuple[Kind, ...] = get_args(Kind)
    batches: int = 32
    stages: int = 1
    train: TrainConfig | None = None

    def __post_init__(self) -> None:
        if (self.sparsity is None) == (self.pattern is None):
            raise ConfigError("set one of `sparsity` and `pattern`", 'such as sparsity = 0.5, or pattern = "2:4"')
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            raise ConfigError(f"sparsity = {self.sparsity}", "choose a share above 0 and below 1")
        if self.pattern is not None:
            self._check_pattern()
        if not self.include or not set(self.include) <= set(get_args(Kind)):
            raise ConfigError(f"include = {list(self.include)}", f"name one or more of {', '.join(get_args(Kind))}")
        for name, kinds in (("scope", get_args(Scope)), ("importance", get_args(Importance))):
            if getattr(self, name) not in kinds:
                raise ConfigError(f"{name} = {getattr(self, name)!r}", f"use one of {', '.join(kinds)}")
        for name in ("batches", "stages"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}", "choose at least 1")
        if self.stages > 1 and (self.train is None or self.train.epochs < self.stages):
            raise ConfigError(f"stages = {self.stages}", "give `train` with at least as many epochs, or leave it out")

    def _check_pattern(self) -> None:
        found = _PATTERN.fullmatch(self.pattern or "")
        if found is None or not 0 < int(found[1]) < int(found[2]):
            raise ConfigError(f"pattern = {self.pattern!r}", 'write "n:m" with 0 < n < m, such as "2:4"')
        if self.scope != "layer":
            raise ConfigError(f"scope = {self.scope!r} with a `pattern`, which holds in every row", "leave it out")

    @property
    def needs_data(self) -> bool:
        """Taylor scores and training read histories."""
        return self.importance == "taylor" or self.train is not None

    def rewritten(self, config: ModelConfig, n_items: int) -> ModelConfig:
        """The same config: zeros are values like others."""
        del n_items
        network = check_network(config, self.train)
        if "embedding" in self.include and isinstance(network.table, Quantized | Product | Tiered):
            table = network.table.__struct_config__.tag
            raise ConfigError(f"include: the item table is {table} already", 'choose include = ["linear"]')
        if self.pattern is not None:
            size = int(self.pattern.split(":")[1])
            for name, weight in prunable(build(config, 1), self.include).items():
                if weight.shape[1] % size:
                    raise ConfigError(
                        f"pattern = {self.pattern!r}: {name} has {weight.shape[1]} inputs, no multiple of {size}",
                        "choose another pattern, or `sparsity`, or leave its kind out of `include`",
                    )
        return config

    def apply(self, checkpoint: Checkpoint, workshop: Workshop, folder: Path | None) -> Checkpoint:
        """Stage by stage: prune, and train on if asked to. With data the validation figure is measured again."""
        self.rewritten(checkpoint.config, len(checkpoint.catalog))
        for stage in range(self.stages):
            checkpoint = self._pruned(checkpoint, workshop, self._way(stage))
            if self.train is not None:
                own = None if folder is None else folder / f"stage-{stage}"
                checkpoint = recovered(checkpoint, self._training(stage), workshop, own)
        return measured(checkpoint, workshop) if self.needs_data else replace(checkpoint, metrics={})

    def _way(self, stage: int) -> float:
        """How much of the way from the zeros that there are to those that are wanted is done after a stage."""
        return 1 - (1 - (stage + 1) / self.stages) ** 3

    def _pruned(self, checkpoint: Checkpoint, workshop: Workshop, way: float) -> Checkpoint:
        names = list(prunable(checkpoint.network(), self.include))
        weights = {name: checkpoint.parameters[name] for name in names}
        found = None
        if self.importance == "taylor":
            found = effects(checkpoint, workshop, self.batches, self.train)
        drop = self._dropped(alive(weight_scores(checkpoint, names, found), weights), weights, way)
        pruned = {name: weights[name].masked_fill(drop[name], 0.0) for name in names}
        return replace(checkpoint, parameters=checkpoint.parameters | pruned)

    def _dropped(self, scores: Mapping[str, Tensor], weights: Mapping[str, Tensor], way: float) -> dict[str, Tensor]:
        if self.pattern is not None:
            keep, size = map(int, self.pattern.split(":"))
            return {name: least_of_groups(score, size, round((size - keep) * way)) for name, score in scores.items()}
        if self.scope == "global":
            return least_of_all(scores, self._zeros(list(weights.values()), way))
        if self.scope == "row":
            assert self.sparsity is not None  # noqa: S101
            sizes = {name: score.shape[1] for name, score in scores.items()}
            counts = {name: round(self.sparsity * size * way) for name, size in sizes.items()}
            return {name: least_of_groups(score, sizes[name], counts[name]) for name, score in scores.items()}
        return {name: least(score, self._zeros([weights[name]], way)) for name, score in scores.items()}

    def _zeros(self, weights: list[Tensor], way: float) -> int:
        """How many of these weights are to be zero."""
        assert self.sparsity is not None  # noqa: S101
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        wanted = self.sparsity * sum(weight.numel() for weight in weights)
        return round(zeros + max(0.0, wanted - zeros) * way)

    def _training(self, stage: int) -> TrainConfig:
        """The share of a stage in the training; the last one has what is left over."""
        assert self.train is not None  # noqa: S101
        epochs, rest = divmod(self.train.epochs, self.stages)
        minutes = self.train.max_minutes
        return msgspec.structs.replace(
            self.train,
            epochs=epochs + (rest if stage + 1 == self.stages else 0),
            max_minutes=None if minutes is None else minutes / self.stages,
        )
