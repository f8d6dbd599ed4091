"""Fewer values: those that few training rows have become the unknown one."""

from dataclasses import replace

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from millirec.compress.rankers.base import RankerWorkshop, check_network, measured, recovered
from millirec.data.dataset import TRAIN
from millirec.data.errors import ConfigError
from millirec.data.features import Featuriser, RankingRows, Schema
from millirec.data.features.config import CategoricalField, MultiValuedField
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.models.rankers.config import RankerConfig
from millirec.models.rankers.fields import FieldVectors, spans
from millirec.train.fit_ranker import training_of
from millirec.train.rank_config import RankTrainConfig


class CapValues(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="values"):
    """Of each categorical and multi-valued feature, or of those in `features`, values with fewer than `min_count`
    training rows go, and all but the `max_size` most frequent ones (0 = all). The vector of the unknown value becomes
    the mean of theirs, weighted by rows. With `train` the network learns on.
    """

    min_count: int = 1
    max_size: int = 0
    features: tuple[str, ...] | None = None
    train: RankTrainConfig | None = None

    def __post_init__(self) -> None:
        if self.min_count < 1 or self.max_size < 0 or (self.min_count == 1 and not self.max_size):
            raise ConfigError(
                f"min_count = {self.min_count}, max_size = {self.max_size} leave every value", "raise one of them"
            )

    @property
    def needs_data(self) -> bool:
        """Counts are those of the training rows."""
        return True

    def rewritten(self, config: RankerConfig, schema: Schema) -> RankerConfig:
        """The same config."""
        check_network(config, "vectors of values")
        if config.table_bits is not None:
            raise ConfigError("the vectors are quantised already", "leave values out before they are")
        known = {space.name for space in (*schema.categorical, *schema.lists)}
        unknown = sorted(set(self.features or ()) - known)
        if unknown:
            raise ConfigError(f"features names {unknown}", f"choose among {sorted(known)}")
        return config

    def apply(self, checkpoint: RankerCheckpoint, workshop: RankerWorkshop) -> RankerCheckpoint:
        """Count, cut, train on if asked to, calibrate and measure."""
        self.rewritten(checkpoint.config, checkpoint.featuriser.schema())
        counts = value_counts(workshop.rows(checkpoint), checkpoint.featuriser.schema())
        made = self._cut(checkpoint, counts)
        if self.train is not None:
            return recovered(made, made.network(), self.train, workshop)
        return measured(made, workshop.rows(made), training_of(checkpoint))

    def _cut(self, checkpoint: RankerCheckpoint, counts: dict[str, NDArray[np.int64]]) -> RankerCheckpoint:
        old = checkpoint.featuriser
        learned, kept = dict(old.learned), {}
        for field in old.fields:
            chosen = self.features is None or field.name in self.features
            if chosen and isinstance(field, CategoricalField | MultiValuedField):
                kept[field.name] = self._kept(counts[field.name])
                values = learned[field.name].values
                left = tuple(values[i - 1] for i in kept[field.name])
                learned[field.name] = msgspec.structs.replace(learned[field.name], values=left)
        featuriser = Featuriser(old.fields, learned, old.users, old.items)
        parameters = dict(checkpoint.parameters)
        for name, module in checkpoint.network().named_modules():
            if isinstance(module, FieldVectors):
                key = f"{name}.table.weight"
                parameters[key] = _narrowed(parameters[key], old.schema(), kept, counts)
        return replace(checkpoint, featuriser=featuriser, parameters=parameters)

    def _kept(self, counts: NDArray[np.int64]) -> list[int]:
        """The ids (1, 2, ...) that stay, in their order, which is that of falling frequency."""
        ids = [i for i in range(1, len(counts)) if counts[i] >= self.min_count]
        return ids[: self.max_size or None]


def value_counts(rows: RankingRows, schema: Schema) -> dict[str, NDArray[np.int64]]:
    """For each categorical and multi-valued feature, the training rows with each id, (size + 1,)."""
    features = rows.features.take(rows.part(TRAIN))
    counts = {s.name: np.bincount(features.ids[:, i], minlength=s.size + 1) for i, s in enumerate(schema.categorical)}
    for space, lists in zip(schema.lists, features.lists, strict=True):
        counts[space.name] = np.bincount(lists.packed()[1], minlength=space.size + 1)
    return counts


def _narrowed(
    table: Tensor, schema: Schema, kept: dict[str, list[int]], counts: dict[str, NDArray[np.int64]]
) -> Tensor:
    """The rows of a table (values, d) that stay, feature by feature."""
    parts = []
    for name, (start, end) in spans(schema).items():
        own = table[start:end]
        if name in kept:
            stay = torch.tensor(kept[name], dtype=torch.int64)
            gone = torch.from_numpy(counts[name]).to(own.dtype)
            gone[stay] = 0
            unknown = own[:1] if not gone.sum() else (gone @ own / gone.sum()).unsqueeze(0)
            own = torch.cat([unknown, own[stay]])
        parts.append(own)
    return torch.cat(parts)
