"""What all steps have in common that put another item table in the place of one of floats."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from millirec.compress.recovery import measured, recovered
from millirec.compress.workshop import Workshop
from millirec.data.errors import ConfigError
from millirec.models.base import NetworkConfig
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig, build
from millirec.models.layers.table import Dense, ItemTable, TableConfig
from millirec.train.config import TrainConfig
from millirec.train.trainable import check_trainable

_ITEM = "item."  # how the parameters of every network's item table begin


class NewTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`train`: how the network learns on, the new table together with all its other parameters; None = not at all.

    Without training the table alone is replaced, by what is nearest to the old one: the squared error of an item
    counts (1 + its training events) ** `power` times.
    """

    power: float = 0.5
    train: TrainConfig | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.power <= 2:
            raise ConfigError(f"power = {self.power}", "choose 0 (all items count alike) to 2")

    @property
    def needs_data(self) -> bool:
        """Training reads histories."""
        return self.train is not None

    def table(self) -> TableConfig:
        """The config of the new table."""
        raise NotImplementedError

    def fit(self, table: Any, checkpoint: Checkpoint, workshop: Workshop) -> None:
        """Give a fresh table of this config the values that come nearest to the checkpoint's item vectors."""
        raise NotImplementedError

    def rewritten(self, config: ModelConfig, n_items: int) -> ModelConfig:
        """The config with its `table` replaced. Raises ConfigError when it has none of floats.

        `apply` may change its temperature, see `fitted`.
        """
        del n_items
        new = replaced_table(config, self.table())
        if not isinstance(config, NetworkConfig) or not isinstance(config.table, Dense):
            raise ConfigError("the item table is not of floats any more", "replace it once, before other steps")
        if self.train is not None:
            check_trainable(new, self.train, at="", fitted=True)
        build(new, 1)  # refuses what does not fit the width
        return new

    def apply(self, checkpoint: Checkpoint, workshop: Workshop, folder: Path | None) -> Checkpoint:
        """Fit the table and train on if asked to. With data the validation figure is measured again."""
        config = self.fitted(self.rewritten(checkpoint.config, len(checkpoint.catalog)), checkpoint)
        made = replace(checkpoint, config=config, parameters=self.parameters(checkpoint, workshop, config), metrics={})
        if self.train is not None:
            made = self.learned(made, checkpoint, self.train, workshop, folder)
        return measured(made, workshop) if self.needs_data else made

    def fitted(self, config: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
        """The config with a temperature that leaves scores as they were, where the new vectors are not of length 1."""
        temperature, table = getattr(config, "temperature", None), cast(ItemTable, build(config, 1).item)
        if temperature is None or table.unit:
            return config
        length = float(dense_vectors(checkpoint, table)[1:].norm(dim=1).mean())
        scaled: ModelConfig = msgspec.structs.replace(config, temperature=temperature * length)
        return scaled

    def learned(
        self, made: Checkpoint, before: Checkpoint, train: TrainConfig, workshop: Workshop, folder: Path | None
    ) -> Checkpoint:
        """`made` after training on; `before` has the table of floats."""
        del before
        return recovered(made, train, workshop, folder)

    def parameters(self, checkpoint: Checkpoint, workshop: Workshop, config: ModelConfig) -> dict[str, Tensor]:
        """What training begins with: the checkpoint's own parameters save for those of the table."""
        fresh: Any = build(config, len(checkpoint.catalog))
        with torch.no_grad():
            self.fit(fresh.item, checkpoint, workshop)
        old = {name: value for name, value in checkpoint.parameters.items() if not name.startswith(_ITEM)}
        return old | {f"{_ITEM}{name}": value.detach() for name, value in fresh.item.state_dict().items()}


def replaced_table(config: ModelConfig, table: TableConfig) -> ModelConfig:
    """The config with another table. Raises ConfigError for a model without one."""
    if not isinstance(config, NetworkConfig):
        kind = msgspec.to_builtins(config)["kind"]
        raise ConfigError(f"a model of kind {kind!r} has no item table", "choose a network, such as sasrec")
    new: ModelConfig = msgspec.structs.replace(config, table=table)
    return new


def dense_vectors(checkpoint: Checkpoint, table: ItemTable, rows: NDArray[np.int64] | None = None) -> Tensor:
    """The item vectors (n + 1, d), or those of `rows` above 0, that `table` is to come near to.

    Scores of cosines compare directions, and a table that is not brought to length 1 has to keep those: all vectors
    then get their mean length, which changes no ranking and is about what the network is used to read.
    """
    vectors = checkpoint.parameters[f"{_ITEM}weight"]
    real = vectors[1:] if rows is None else vectors[rows]
    vectors = vectors if rows is None else real
    if getattr(checkpoint.config, "temperature", None) is None or table.unit:
        return vectors
    return F.normalize(vectors, dim=1) * float(real.norm(dim=1).mean())


def item_weights(checkpoint: Checkpoint, power: float) -> NDArray[np.float32]:
    """How much each row counts, (n + 1,): 0 for padding, 1 on average of all others."""
    weights = (1.0 + checkpoint.popularity) ** power
    weights[0] = 0
    shares: NDArray[np.float32] = (weights * (len(weights) - 1) / weights.sum()).astype(np.float32)
    return shares
