"""`fit`: a split data set and two configs become a checkpoint."""

import time
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from millirec.data.dataset import TRAIN, VALIDATION, Dataset
from millirec.data.split import targets
from millirec.models.base import ClosedForm
from millirec.models.checkpoint import Checkpoint, Provenance, Step
from millirec.models.config import ModelConfig, build, max_length
from millirec.train.adversarial import item_table
from millirec.train.evaluate import ndcg_at_10, rank_targets
from millirec.train.item_codes import prepare_table
from millirec.train.journal import Journal
from millirec.train.machine import Machine
from millirec.train.trainable import check_trainable
from millirec.train.trainer import TrainConfig, Trainer


def fit(
    dataset: Dataset,
    model: ModelConfig,
    train: TrainConfig,
    machine: Machine,
    journal: Journal,
    *,
    progress: Path | None = None,
    resume: bool = False,
) -> Checkpoint:
    """Learn from the training part; the validation part decides when to stop.

    `progress` is the folder in which a resumable state is kept. The checkpoint's provenance names data and
    protocol by hash; the caller adds the settings that read them again.
    """
    check_trainable(model, train)
    machine.prepare()
    network = build(model, len(dataset.items))  # what is counted stays on the processor; a trainer moves the others
    if not isinstance(network, ClosedForm):
        prepare_table(network, dataset, machine.seed)
        return learned(Trainer(network, dataset, max_length(model), train, machine), model, journal, progress, resume)
    if train.adversarial is not None:
        item_table(network)  # refuses by name
    began = time.monotonic()
    _fit_at_once(network, dataset)
    metrics = validated(network, dataset, model, repeats=train.repeats)
    settings = msgspec.to_builtins(model) | {"repeats": train.repeats}  # what it is asked for is the same again later
    step = Step(name="train", settings=settings, seconds=time.monotonic() - began)
    return _checkpoint(dataset, model, network.state_dict(), step, metrics)


def learned(trainer: Trainer, model: ModelConfig, journal: Journal, progress: Path | None, resume: bool) -> Checkpoint:
    """Run a trainer to its end; its best weights as a checkpoint of `model`."""
    result = trainer.run(progress, journal, resume=resume)
    metrics = {"ndcg@10": result.best_ndcg_10, "best_epoch": float(result.best_epoch)}
    metrics["epochs"] = float(len(result.history))
    machine = trainer.machine
    settings = msgspec.to_builtins(trainer.config) | {"seed": machine.seed, "device": machine.device}
    step = Step(name="train", settings=settings, seconds=result.seconds)
    return _checkpoint(trainer.dataset, model, result.parameters, step, metrics)


def validated(network: nn.Module, dataset: Dataset, model: ModelConfig, *, repeats: bool) -> dict[str, float]:
    """NDCG@10 of a network on the whole validation part."""
    asked = targets(dataset, VALIDATION, repeats=repeats)
    ranks = rank_targets(network, dataset, asked, max_length(model), keep_seen=repeats, lists=0)  # type: ignore[arg-type]
    return {"ndcg@10": ndcg_at_10(ranks.ranks)}


def _checkpoint(
    dataset: Dataset, model: ModelConfig, parameters: dict[str, Tensor], step: Step, metrics: dict[str, float]
) -> Checkpoint:
    return Checkpoint(
        config=model,
        parameters={name: value.cpu() for name, value in parameters.items()},
        catalog=dataset.items,
        popularity=dataset.popularity,
        provenance=provenance_of(dataset),
        lineage=(step,),
        metrics=metrics,
    )


def _fit_at_once(network: ClosedForm, dataset: Dataset) -> None:
    log = dataset.interactions.take(dataset.roles == TRAIN)
    columns: list[Tensor] = [torch.from_numpy(np.ascontiguousarray(c)) for c in (log.users, log.items, log.times)]
    network.fit(*columns)


def provenance_of(dataset: Dataset) -> Provenance:
    """Data and protocol by hash, and how much was learned from; the caller adds the settings that read them again."""
    train = dataset.roles == TRAIN
    return Provenance(
        fingerprint=dataset.fingerprint,
        protocol=dataset.protocol,
        n_events=int(train.sum()),
        trained_until=int(dataset.interactions.times[train].max()),
    )
