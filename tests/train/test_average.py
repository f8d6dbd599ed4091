import contextlib

import pytest
import torch
from torch import nn

from millirec.models.config import build
from millirec.models.sasrec import SASRecConfig
from millirec.train.average import WeightAverage
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.trainer import TrainConfig, Trainer
from tests.logs import cycle

TINY = SASRecConfig(embedding_dim=16, blocks=1, heads=1, max_length=8)


def test_the_average_by_hand() -> None:
    """After step t the decay is min(0.5, (1 + t) / (10 + t)): 2/11, then 3/12; from 0 with weights 1, then 2."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    average = WeightAverage(network, 0.5)
    for step in (1, 2):
        nn.init.constant_(network.weight, float(step))
        average.update(step)
    assert average.averages["weight"].item() == pytest.approx(9 / 11 * 0.25 + 2 * 0.75)


def test_the_own_weights_come_back_bit_for_bit_even_after_an_error() -> None:
    network = nn.Linear(5, 5)
    average = WeightAverage(network, 0.9)
    nn.init.normal_(network.weight)
    own = network.weight.detach().clone()
    with contextlib.suppress(KeyError), average.applied():
        assert torch.equal(network.weight, average.averages["weight"])
        raise KeyError
    assert torch.equal(network.weight, own)


def test_the_kept_weights_are_the_averages_and_training_is_not_disturbed() -> None:
    """With and without averaging the network takes the same steps; only what is validated and kept differs."""
    runs = []
    for ema in (0.0, 0.95):
        machine = Machine(threads=1)
        machine.prepare()
        config = TrainConfig(epochs=1, batch_size=8, learning_rate=0.01, ema=ema)
        trainer = Trainer(build(TINY, 12), cycle(), 8, config, machine)
        runs.append((trainer, trainer.run(None, Silent())))
    (plain, _), (averaged, result) = runs
    own = plain.network.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in averaged.network.state_dict().items())
    assert averaged.average is not None
    assert all(torch.equal(result.parameters[name], value) for name, value in averaged.average.averages.items())
    assert not torch.equal(result.parameters["norm.weight"], own["norm.weight"])
