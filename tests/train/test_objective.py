"""The loss of a batch through a network: every loss of the union teaches, and none asks for more than it needs."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from millirec.models.base import Inputs
from millirec.models.config import build
from millirec.models.sasrec import SASRecConfig
from millirec.train.batches import TrainingSequences
from millirec.train.journal import Silent
from millirec.train.losses import BCE, GBCE, FullSoftmax, InBatchSoftmax, LossConfig, SampledSoftmax
from millirec.train.machine import Machine
from millirec.train.objective import Objective, Wanted
from millirec.train.trainer import TrainConfig, Trainer
from tests.logs import cycle, dataset_of

TINY = SASRecConfig(embedding_dim=16, blocks=1, heads=1, max_length=8, dropout=0.1)
LOSSES = [
    FullSoftmax(),
    SampledSoftmax(negatives=8),
    SampledSoftmax(negatives=8, correction="negatives"),
    SampledSoftmax(negatives=4, sampling="popularity", per_row=True),
    SampledSoftmax(negatives=8, sampling="in-batch"),
    SampledSoftmax(negatives=4, sampling="adaptive", pool=16),
    SampledSoftmax(negatives=4, sampling="adaptive", pool=16, per_row=True),
    InBatchSoftmax(),
    InBatchSoftmax(negatives=6, uniform=4),
    BCE(negatives=1, per_row=True),
    BCE(negatives=8, sampling="popularity"),
    BCE(negatives=4, sampling="adaptive", per_row=True),
    GBCE(negatives=8),
]
DEVICE = torch.device("cpu")


def name_of(loss: LossConfig) -> str:
    fields = {name: getattr(loss, name, None) for name in ("sampling", "per_row", "uniform", "correction")}
    return "-".join([type(loss).__name__, *(f"{value}" for value in fields.values() if value)])


@pytest.mark.parametrize("loss", LOSSES, ids=name_of)
def test_every_loss_learns_a_circle(loss: LossConfig) -> None:
    machine, dataset = Machine(threads=1), cycle()
    machine.prepare()
    config = TrainConfig(loss=loss, epochs=40, batch_size=8, learning_rate=0.01, validate_every=5)
    trainer = Trainer(build(TINY, len(dataset.items)), dataset, TINY.max_length, config, machine)
    assert trainer.run(None, Silent()).best_ndcg_10 > 0.9


def test_the_list_above_holds_every_loss() -> None:
    assert {type(loss) for loss in LOSSES} == set(get_args(LossConfig))


class Watched(torch.nn.Module):
    """A model that notes which rows it is asked for."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.asked = inner, []

    def forward(self, inputs: Inputs) -> Tensor:
        return self.inner(inputs)

    def user_vectors(self, inputs: Inputs) -> Tensor:
        return self.inner.user_vectors(inputs)

    def item_vectors(self, rows: Tensor | None = None) -> Tensor:
        self.asked.append(None if rows is None else len(rows))
        return self.inner.item_vectors(rows)


def loss_and_gradient(
    loss: LossConfig, *, rows_only: bool, n_items: int = 12
) -> tuple[Tensor, Tensor, list[int | None]]:
    torch.manual_seed(0)
    dataset = cycle(n_items=12)
    if n_items > 12:
        dataset = dataset_of([*([[1, 2, 3, 4]] * 30)], n_items)
    model = Watched(build(TINY, n_items).eval())
    sequences, rng = TrainingSequences(dataset, 8), np.random.default_rng(0)
    batch = sequences.batch(sequences.plan(5, rng)[0])
    objective = Objective(loss, dataset, DEVICE, rows_only=rows_only)
    value = objective(model, Inputs.of(batch.inputs), Wanted.of(batch), np.random.default_rng(0))
    value.backward()
    return value.detach(), model.inner.item.weight.grad, model.asked


@pytest.mark.parametrize("loss", LOSSES[1:], ids=name_of)
def test_a_few_rows_give_the_loss_and_the_gradient_of_the_whole_table(loss: LossConfig) -> None:
    whole, rows = (loss_and_gradient(loss, rows_only=only) for only in (False, True))
    torch.testing.assert_close(rows[0], whole[0])
    torch.testing.assert_close(rows[1], whole[1])
    assert None not in rows[2]


def test_a_large_catalogue_is_never_asked_for_as_a_whole() -> None:
    asked = loss_and_gradient(SampledSoftmax(negatives=8), rows_only=False, n_items=5000)[2]
    assert None not in asked
    assert max(asked) <= 4 + 8
