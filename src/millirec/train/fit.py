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
from millirec.train.evaluate import ndcg_at_10, rank_targets
from millirec.train.journal import Journal
from millirec.train.machine import Machine
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
    device = machine.prepare()
    network = build(model, len(dataset.items)).to(device)
    began = time.monotonic()
    if isinstance(network, ClosedForm):
        _fit_at_once(network, dataset)
        parameters, metrics = network.state_dict(), _validate(network, dataset, model, repeats=train.repeats)
        settings = msgspec.to_builtins(model)
        seconds = time.monotonic() - began
    else:
        trainer = Trainer(network, dataset, max_length(model), train, machine)
        result = trainer.run(progress, journal, resume=resume)
        parameters, seconds = result.parameters, result.seconds
        metrics = {"ndcg@10": result.best_ndcg_10, "best_epoch": float(result.best_epoch)}
        metrics["epochs"] = float(len(result.history))
        settings = msgspec.to_builtins(train) | {"seed": machine.seed, "device": machine.device}
    step = Step(name="train", settings=settings, seconds=seconds)
    return Checkpoint(
        config=model,
        parameters={name: value.cpu() for name, value in parameters.items()},
        catalog=dataset.items,
        popularity=dataset.popularity,
        provenance=_provenance(dataset),
        lineage=(step,),
        metrics=metrics,
    )


def _fit_at_once(network: ClosedForm, dataset: Dataset) -> None:
    log = dataset.interactions.take(dataset.roles == TRAIN)
    columns: list[Tensor] = [torch.from_numpy(np.ascontiguousarray(c)) for c in (log.users, log.items, log.times)]
    network.fit(*columns)


def _validate(network: nn.Module, dataset: Dataset, model: ModelConfig, *, repeats: bool) -> dict[str, float]:
    asked = targets(dataset, VALIDATION, repeats=repeats)
    ranks = rank_targets(network, dataset, asked, max_length(model), keep_seen=repeats)  # type: ignore[arg-type]
    return {"ndcg@10": ndcg_at_10(ranks.ranks)}


def _provenance(dataset: Dataset) -> Provenance:
    train = dataset.roles == TRAIN
    return Provenance(
        fingerprint=dataset.fingerprint,
        protocol=dataset.protocol,
        n_events=int(train.sum()),
        trained_until=int(dataset.interactions.times[train].max()),
    )
