"""Warm start: an earlier checkpoint goes on learning from newer data, with new items behind the old ones."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from millirec.data.dataset import TRAIN, Dataset
from millirec.data.errors import ArtifactError, ConfigError, DataError
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig, build, max_length
from millirec.models.layers.table import ProductTable
from millirec.train.fit import learned, validated
from millirec.train.journal import Journal
from millirec.train.machine import Machine, generator
from millirec.train.trainable import check_dense, check_trainable
from millirec.train.trainer import Start, TrainConfig, Trainer

_NEW_ROWS = 12  # stream of random numbers
_REACH = 3  # how far a neighbour may stand in a history
_FREE = {"dropout"}  # what may differ from the checkpoint: it shapes no parameter and no answer


class WarmStart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a training begins instead of at random.

    `checkpoint`: the folder of an earlier one. Its items keep their rows and, at the start, their vectors bit for
    bit. The vector of a new item starts at the mean of the old items that stand beside it in histories
    (`new_rows` = "neighbours"; the mean of all where there is none) or at the mean of all ("mean"), plus `noise`
    times the spread of the old ones. `learn_from` = "new" takes as targets only events that are newer than what the
    checkpoint has learned from; older ones are read before them. Old item vectors rest for `frozen_epochs`.
    """

    checkpoint: str
    new_rows: Literal["neighbours", "mean"] = "neighbours"
    noise: float = 0.1
    learn_from: Literal["new", "all"] = "new"
    frozen_epochs: int = 0

    def __post_init__(self) -> None:
        if not self.noise >= 0:
            raise ConfigError(f"$.warm_start.noise = {self.noise}", "choose 0 or more")
        if self.frozen_epochs < 0:
            raise ConfigError(f"$.warm_start.frozen_epochs = {self.frozen_epochs}", "choose 0 or more")


@dataclass(frozen=True, slots=True)
class Earlier:
    """A checkpoint that fits the run's model, and how to go on from it."""

    checkpoint: Checkpoint
    model: ModelConfig
    config: WarmStart

    @classmethod
    def open(cls, config: WarmStart, model: ModelConfig) -> "Earlier":
        """Raises ConfigError, before any data is read, when the checkpoint is not there or is of another model."""
        try:
            checkpoint = Checkpoint.load(Path(config.checkpoint))
        except ArtifactError as error:
            raise ConfigError(
                f"$.warm_start.checkpoint: {error.problem}", "name an earlier run's checkpoint"
            ) from error
        own, old = msgspec.to_builtins(model), msgspec.to_builtins(checkpoint.config)
        for name in ("kind", *own):
            if name not in _FREE and own[name] != old.get(name):
                raise ConfigError(
                    f"$.model.{name} = {own[name]!r}, but it is {old.get(name)!r} in $.warm_start.checkpoint",
                    "make them equal, or leave [warm_start] out to train anew",
                )
        if config.frozen_epochs:
            check_dense(model, "$.warm_start.frozen_epochs")
        return cls(checkpoint, model, config)


def fine_tune(
    earlier: Earlier,
    dataset: Dataset,
    train: TrainConfig,
    machine: Machine,
    journal: Journal,
    *,
    progress: Path | None = None,
    resume: bool = False,
) -> Checkpoint:
    """`fit` that begins with an earlier checkpoint; `dataset` is one that `data.extend.extended` made for it.

    The metrics tell the validation figure from before as well. Raises ArtifactError when the data's rows do not begin
    with the checkpoint's, DataError when there is nothing new to learn from.
    """
    check_trainable(earlier.model, train)
    old, device = earlier.checkpoint, machine.prepare()
    if dataset.items.vocabulary.ids[: len(old.catalog)] != old.catalog.vocabulary.ids:
        raise ArtifactError("the data's item rows do not begin with the checkpoint's", "use data.extend.extended")
    if earlier.config.learn_from == "new" and not dataset.timed:
        raise DataError(
            "the log tells no times, so what is new in it is unknown", "set $.warm_start.learn_from = 'all'"
        )
    network = build(earlier.model, len(dataset.items))
    parameters = grown(earlier, network.state_dict(), dataset, machine.seed)
    network.load_state_dict(parameters)
    before = validated(network.to(device).eval(), dataset, earlier.model, repeats=train.repeats)
    machine.prepare()  # seeded as a training is, whatever the measuring drew
    start = _start(earlier, parameters)
    trainer = Trainer(network, dataset, max_length(earlier.model), train, machine, start)
    made = learned(trainer, earlier.model, journal, progress, resume)
    step = made.lineage[-1]
    settings = step.settings | {"warm_start": _told(earlier, dataset)}
    lineage = (*old.lineage, msgspec.structs.replace(step, name="fine-tune", settings=settings))
    return replace(made, lineage=lineage, metrics=made.metrics | {"ndcg@10 before": before["ndcg@10"]})


def grown(earlier: Earlier, fresh: dict[str, Tensor], dataset: Dataset, seed: int) -> dict[str, Tensor]:
    """The checkpoint's parameters over the rows of a larger catalogue, in the shapes of `fresh`.

    A parameter with a row for each item keeps its old rows bit for bit and gets new ones behind them: numbers, or the
    codes that come nearest to such numbers. Raises ArtifactError when one has another shape.
    """
    old, out = earlier.checkpoint, {}
    n_old, n_new = len(old.catalog), len(dataset.items)
    beside = _neighbours(dataset, n_old) if earlier.config.new_rows == "neighbours" else (np.empty((0, 2), np.int64))
    for i, (name, value) in enumerate(fresh.items()):
        have = old.parameters.get(name)
        if have is not None and have.shape == value.shape:
            out[name] = have.clone()
        elif have is not None and len(have) == n_old + 1 and value.shape == (n_new + 1, *have.shape[1:]):
            rng = generator(seed, _NEW_ROWS, i)
            item = _product_table(old) if name == "item.codes" else None
            rows = _new_rows(have if item is None else item.vectors(), n_new - n_old, beside, earlier.config.noise, rng)
            out[name] = torch.cat([have, rows if item is None else item.coded(rows)])
        elif have is not None and name == "item.second":  # of a hashed table: more quotients
            out[name] = torch.cat([have, value[len(have) :]])
        else:
            shape = None if have is None else tuple(have.shape)
            raise ArtifactError(
                f"parameter {name}: {shape} in the checkpoint, {tuple(value.shape)} is wanted",
                "train anew without [warm_start]",
            )
    return out


def _product_table(checkpoint: Checkpoint) -> ProductTable | None:
    """The item table of a checkpoint, where new rows need codes."""
    item = checkpoint.network().requires_grad_(False).item
    return item if isinstance(item, ProductTable) else None


def _new_rows(have: Tensor, n: int, beside: NDArray[np.int64], noise: float, rng: np.random.Generator) -> Tensor:
    """`n` rows: each the mean of the rows beside it (of all, where none is), plus noise."""
    real = have[1:]
    rows, counts = torch.zeros(n, *have.shape[1:]), torch.zeros(n)
    new, old = torch.from_numpy(beside[:, 0]), torch.from_numpy(beside[:, 1])
    rows.index_add_(0, new, have[old])
    counts.index_add_(0, new, torch.ones(len(new)))
    counts = counts.view(-1, *([1] * (have.dim() - 1)))
    rows = torch.where(counts > 0, rows / counts.clamp_min(1), real.mean(0))
    spread = real.std(0, unbiased=False)
    return rows + noise * spread * torch.from_numpy(rng.standard_normal(rows.shape, np.float32))


def _neighbours(dataset: Dataset, n_old: int) -> NDArray[np.int64]:
    """Pairs (new item counted from 0, old row), int64 (p, 2): at most `_REACH` apart in a training history."""
    seq = dataset.sequences
    train = seq.roles == TRAIN
    items, users = seq.items[train].astype(np.int64), seq.users[train]
    found = []
    for reach in range(1, _REACH + 1):
        together = users[reach:] == users[:-reach]
        pairs = np.stack([items[reach:], items[:-reach]], 1)[together]
        found += [pairs, pairs[:, ::-1]]
    pairs = np.concatenate(found)
    pairs = pairs[(pairs[:, 0] > n_old) & (pairs[:, 1] <= n_old)]
    return pairs - [n_old + 1, 0]


def _start(earlier: Earlier, parameters: dict[str, Tensor]) -> Start:
    digest = hashlib.sha256()
    for name, value in parameters.items():
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    new = earlier.config.learn_from == "new"
    return Start(
        old_rows=len(earlier.checkpoint.catalog) + 1,
        frozen_epochs=earlier.config.frozen_epochs,
        since=earlier.checkpoint.provenance.trained_until if new else None,
        origin=digest.hexdigest(),
    )


def _told(earlier: Earlier, dataset: Dataset) -> dict[str, object]:
    """For the lineage: how it was started, and what the checkpoint had learned from."""
    old = earlier.checkpoint
    told: dict[str, object] = msgspec.to_builtins(earlier.config)
    told |= {"old_items": len(old.catalog), "new_items": len(dataset.items) - len(old.catalog)}
    return told | {"fingerprint": old.provenance.fingerprint, "trained_until": old.provenance.trained_until}
