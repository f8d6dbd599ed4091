"""Training after something was taken out of a network."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
from torch import nn

from millirec.compress.sparsity import keep_zeros
from millirec.compress.workshop import Workshop
from millirec.data.errors import ConfigError
from millirec.models.base import NetworkConfig
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig, max_length
from millirec.train.config import TrainConfig
from millirec.train.fit import validated
from millirec.train.trainable import check_trainable
from millirec.train.trainer import Trainer


def check_network(config: ModelConfig, train: TrainConfig | None) -> NetworkConfig:
    """The config of a network that can be pruned and, with `train`, trained on. Raises ConfigError for another."""
    if not isinstance(config, NetworkConfig):
        kind = msgspec.to_builtins(config)["kind"]
        raise ConfigError(f"a model of kind {kind!r} has no weights to prune", "choose a network, such as sasrec")
    if config.weights != "fp32":
        raise ConfigError(f"the weights are {config.weights} already", "prune before they are rounded")
    if train is not None:
        check_trainable(config, train, at="", fitted=True)
    return config


def recovered(
    checkpoint: Checkpoint,
    train: TrainConfig,
    workshop: Workshop,
    folder: Path | None,
    prepare: Callable[[nn.Module], None] | None = None,
) -> Checkpoint:
    """The checkpoint after training on; weights that are zero stay zero. A killed training is taken up in `folder`.

    `prepare` may change how the network computes with its parameters; it is called before training.
    """
    dataset, machine = workshop.dataset_of(checkpoint), workshop.machine
    train = msgspec.structs.replace(train, repeats=workshop.repeats)
    network = checkpoint.network().to(machine.prepare())
    keep_zeros(network)
    if prepare is not None:
        prepare(network)
    trainer = Trainer(network, dataset, max_length(checkpoint.config), train, machine)
    result = trainer.run(folder, workshop.journal, resume=folder is not None)
    return replace(checkpoint, parameters={name: value.cpu() for name, value in result.parameters.items()})


def measured(checkpoint: Checkpoint, workshop: Workshop) -> Checkpoint:
    """With the figures of the validation part."""
    dataset = workshop.dataset_of(checkpoint)
    network = checkpoint.network().to(workshop.machine.prepare())
    return replace(checkpoint, metrics=validated(network, dataset, checkpoint.config, repeats=workshop.repeats))
