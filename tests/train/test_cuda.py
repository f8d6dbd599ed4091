"""Training on a GPU, where there is one: the same losses and gradients as on the processor, and an exact resume."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from millirec.data.dataset import TEST
from millirec.data.split import targets
from millirec.models.base import ClosedForm, Inputs
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig, build, max_length
from millirec.train.adversarial import FGM, PGD
from millirec.train.evaluate import rank_checkpoint
from millirec.train.fit import fit
from millirec.train.journal import Silent
from millirec.train.losses import BCE, GBCE, FullSoftmax, InBatchSoftmax, SampledSoftmax
from millirec.train.machine import Machine, generator
from millirec.train.objective import Objective, Wanted
from millirec.train.trainer import TrainConfig, Trainer
from tests.logs import cycle
from tests.networks import small

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

KINDS = [small(kind) for kind in get_args(ModelConfig)]
NAMED = {"ids": lambda value: type(value).__name__}
COUNTED = [config for config in KINDS if isinstance(build(config, 5), ClosedForm)]
TRAINED = [config for config in KINDS if config not in COUNTED]
LOSSES = [
    FullSoftmax(),
    InBatchSoftmax(uniform=4),
    SampledSoftmax(negatives=6),
    SampledSoftmax(negatives=6, sampling="popularity", per_row=True),
    SampledSoftmax(negatives=4, sampling="adaptive"),
    BCE(negatives=1, per_row=True),
    BCE(negatives=4, sampling="in-batch"),
    GBCE(negatives=4),
]


def learned(config: ModelConfig, train: TrainConfig) -> Checkpoint:
    return fit(cycle(), config, train, Machine(device="cuda"), Silent())


@pytest.mark.parametrize("config", TRAINED, **NAMED)
def test_a_model_learns_there_and_answers_on_a_processor(config: ModelConfig) -> None:
    checkpoint = learned(config, TrainConfig(epochs=80, batch_size=8, learning_rate=0.01, validate_every=5))
    assert all(value.device.type == "cpu" for value in checkpoint.parameters.values())
    asked = targets(cycle(), TEST, repeats=True)
    assert rank_checkpoint(checkpoint, cycle(), asked, repeats=True).ranks.mean() < 4.5  # of 12 items


@pytest.mark.parametrize("config", COUNTED, **NAMED)
def test_what_is_counted_is_the_same_wherever_it_is_asked_for(config: ModelConfig) -> None:
    here = fit(cycle(), config, TrainConfig(), Machine(threads=1), Silent())
    there = learned(config, TrainConfig())
    assert there.metrics == here.metrics
    for name, value in here.parameters.items():
        torch.testing.assert_close(there.parameters[name], value, rtol=0, atol=0)


def gradients(config: ModelConfig, loss: object, device: str) -> tuple[float, dict[str, torch.Tensor]]:
    dataset, machine = cycle(), Machine(device=device, threads=1)
    machine.prepare()
    network = build(config, len(dataset.items)).eval()  # without dropout
    trainer = Trainer(network, dataset, max_length(config), TrainConfig(loss=loss, batch_size=40), machine)
    batch = trainer.sequences.batch(trainer.sequences.plan(40, generator(0, 1))[0])
    objective = Objective(loss, dataset, trainer.device)
    inputs, wanted = Inputs.of(batch.inputs, trainer.device), Wanted.of(batch, trainer.device)
    value = objective(trainer.model, inputs, wanted, generator(0, 2))
    value.backward()
    return value.item(), {name: p.grad.cpu() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("loss", LOSSES, **NAMED)
@pytest.mark.parametrize("config", [c for c in TRAINED if type(c).__name__ != "BERT4RecConfig"], **NAMED)
def test_losses_and_gradients_are_those_of_a_processor(config: ModelConfig, loss: object) -> None:
    (there, of_gpu), (here, of_cpu) = gradients(config, loss, "cuda"), gradients(config, loss, "cpu")
    assert there == pytest.approx(here, rel=1e-4)
    assert of_gpu.keys() == of_cpu.keys()
    for name, gradient in of_cpu.items():
        torch.testing.assert_close(of_gpu[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("attack", [FGM(), PGD()], **NAMED)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_attacks_averages_and_bf16_work_there(attack: object, precision: str) -> None:
    train = TrainConfig(epochs=3, batch_size=8, adversarial=attack, ema=0.9, precision=precision)
    assert learned(TRAINED[0], train).metrics["epochs"] == 3


class Cut(Silent):
    """Cuts the training off at its fourth epoch."""

    def epoch(self, number: int, batches: int, done: int) -> None:
        if number == 3:
            raise KeyboardInterrupt


def test_a_training_cut_short_goes_on_there(tmp_path: Path) -> None:
    train = TrainConfig(epochs=6, batch_size=8, ema=0.9, patience=50)
    machine = Machine(device="cuda", save_every_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(cycle(), TRAINED[0], train, machine, Cut(), progress=tmp_path / "progress")
    again = fit(cycle(), TRAINED[0], train, machine, Silent(), progress=tmp_path / "progress", resume=True)
    for name, value in learned(TRAINED[0], train).parameters.items():
        torch.testing.assert_close(again.parameters[name], value, rtol=1e-3, atol=1e-4, msg=name)
