"""Structured pruning: heads, neurons, blocks and channels are taken out; what is left is a smaller network."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import msgspec

from millirec.compress.importance import Importance, best, effects, unit_scores
from millirec.compress.recovery import check_network, measured, recovered
from millirec.compress.workshop import Workshop
from millirec.data.errors import ConfigError
from millirec.models.base import NetworkConfig
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig, build
from millirec.models.layers.parts import Kept, Structure, cut
from millirec.models.layers.table import Product, Quantized, Tiered
from millirec.train.config import TrainConfig

_FIELDS = ("keep_heads", "keep_feed_forward", "keep_hidden", "keep_filters", "keep_keys", "keep_width")


class PruneStructure(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="prune-structure"
):
    """What is to be left of a network, as a count (2) or as a share (0.5).

    `keep_heads` of attention, `keep_feed_forward` neurons, `keep_hidden` units of a recurrent layer, `keep_filters` of
    a convolution over places, `keep_keys` numbers in the queries and keys of a linear recurrence, `keep_width` numbers
    in item vectors and between blocks. Each block keeps as many, but may keep other ones. `keep_blocks`: also as a list
    of their numbers from 0. `importance`: see `compress.importance`; "taylor" reads `batches` batches.

    With `train` the smaller network learns on.
    """

    keep_heads: int | float | None = None
    keep_feed_forward: int | float | None = None
    keep_hidden: int | float | None = None
    keep_filters: int | float | None = None
    keep_keys: int | float | None = None
    keep_width: int | float | None = None
    keep_blocks: int | float | tuple[int, ...] | None = None
    importance: Importance = "magnitude"
    batches: int = 32
    train: TrainConfig | None = None

    def __post_init__(self) -> None:
        asked = {name: getattr(self, name) for name in (*_FIELDS, "keep_blocks") if getattr(self, name) is not None}
        if not asked:
            raise ConfigError("nothing says what to keep", f"set one of {', '.join((*_FIELDS, 'keep_blocks'))}")
        for name, value in asked.items():
            if isinstance(value, tuple):
                if not value or list(value) != sorted(set(value)) or value[0] < 0:
                    raise ConfigError(f"{name} = {list(value)}", "list numbers from 0 in order, each once")
            elif isinstance(value, int) and value < 1:
                raise ConfigError(f"{name} = {value}", "keep at least 1")
            elif isinstance(value, float) and not 0 < value <= 1:
                raise ConfigError(f"{name} = {value}", "choose a share above 0, at most 1, or a whole number")
        if self.importance not in get_args(Importance):
            raise ConfigError(f"importance = {self.importance!r}", f"use one of {', '.join(get_args(Importance))}")
        if self.batches < 1:
            raise ConfigError(f"batches = {self.batches}", "choose at least 1")

    @property
    def needs_data(self) -> bool:
        """Taylor scores and training read histories."""
        return self.importance == "taylor" or self.train is not None

    def rewritten(self, config: ModelConfig, n_items: int) -> ModelConfig:
        """The config of the smaller network."""
        del n_items
        network = check_network(config, self.train)
        structure = network.structure()
        blocks = self._blocks(structure)
        listed = blocks if isinstance(blocks, tuple) else tuple(range(blocks))
        made: ModelConfig = network.shrunk(self._counts(network, structure), listed)  # type: ignore[assignment]
        build(made, 1)  # refuses what no longer fits, such as a low rank that is no lower than the width
        return made

    def apply(self, checkpoint: Checkpoint, workshop: Workshop, folder: Path | None) -> Checkpoint:
        """Take out, and train on if asked to. With data the validation figure is measured again."""
        self.rewritten(checkpoint.config, len(checkpoint.catalog))
        checkpoint = self._cut(checkpoint, workshop)
        if self.train is not None:
            checkpoint = recovered(checkpoint, self.train, workshop, folder)
        return measured(checkpoint, workshop) if self.needs_data else replace(checkpoint, metrics={})

    def _cut(self, checkpoint: Checkpoint, workshop: Workshop) -> Checkpoint:
        assert isinstance(checkpoint.config, NetworkConfig)  # noqa: S101
        structure = checkpoint.config.structure()
        counts, blocks = self._counts(checkpoint.config, structure), self._blocks(structure)
        found = None
        if self.importance == "taylor":
            found = effects(checkpoint, workshop, self.batches, self.train)
        scores = unit_scores(checkpoint, structure, found)
        kept = Kept(
            {part: [best(group, count) for group in scores.units[part]] for part, count in counts.items()},
            blocks if isinstance(blocks, tuple) else best(scores.blocks, blocks).tolist(),
        )
        config: ModelConfig = checkpoint.config.shrunk(counts, kept.blocks)
        return replace(checkpoint, config=config, parameters=cut(checkpoint.parameters, structure, kept))

    def _counts(self, config: NetworkConfig, structure: Structure) -> dict[str, int]:
        """How many units of each part that is named stay. Raises ConfigError when there are none, or not so many."""
        counts = {}
        for field in _FIELDS:
            asked, part = getattr(self, field), field.removeprefix("keep_")
            if asked is None:
                continue
            if part == "width" and isinstance(config.table, Quantized | Product | Tiered):
                table = config.table.__struct_config__.tag
                raise ConfigError(f"{field}: the item table is {table} already", "cut the width before that")
            if part not in structure.parts:
                raise _missing(field, config, structure)
            counts[part] = _count(asked, structure.parts[part].units, field)
        return counts

    def _blocks(self, structure: Structure) -> int | tuple[int, ...]:
        """How many blocks stay, or which. Raises ConfigError when that cannot be."""
        asked = self.keep_blocks
        if asked is None:
            return tuple(range(structure.blocks))
        if not structure.blocks:
            raise ConfigError("keep_blocks: this kind of model has no blocks that could be left out", "leave it out")
        if isinstance(asked, tuple):
            if asked[-1] >= structure.blocks:
                raise ConfigError(f"keep_blocks = {list(asked)}", f"the blocks are 0 to {structure.blocks - 1}")
            return asked
        if not structure.alike:
            raise ConfigError(
                f"keep_blocks = {asked}: the blocks differ, so which ones are kept must be known before",
                "list their numbers, such as keep_blocks = [0, 1]",
            )
        return _count(asked, structure.blocks, "keep_blocks")


def _count(asked: float, units: int, field: str) -> int:
    if isinstance(asked, int):
        if asked > units:
            raise ConfigError(f"{field} = {asked}, but there are {units}", f"choose 1 to {units}, or a share")
        return asked
    return max(1, int(asked * units + 0.5))


def _missing(field: str, config: NetworkConfig, structure: Structure) -> ConfigError:
    kind = config.__struct_config__.tag
    possible = [f"keep_{part}" for part in structure.parts] + (["keep_blocks"] if structure.blocks else [])
    return ConfigError(f"{field}: a model of kind {kind!r} has none", f"use one of {', '.join(possible)}")
