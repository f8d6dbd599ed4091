import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from millirec.data.errors import ConfigError
from millirec.models.config import build
from millirec.train.adversarial import FGM
from millirec.train.journal import Silent
from millirec.train.losses import InBatchSoftmax, SampledSoftmax
from millirec.train.machine import Machine
from millirec.train.rows import RowAdam, clip_gradients, sparse_items
from millirec.train.trainer import TrainConfig, Trained, Trainer
from tests.logs import cycle
from tests.train.test_objective import TINY

CONFIG = TrainConfig(
    loss=SampledSoftmax(negatives=8), epochs=10, batch_size=4, learning_rate=0.01, patience=30, sparse_rows=True
)


class Pair(nn.Module):
    """A table and a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.item, self.matrix = nn.Embedding(6, 3), nn.Linear(3, 3)

    def loss(self, rows: torch.Tensor) -> torch.Tensor:
        return (self.matrix(self.item(rows)) ** 2).sum()


def pair() -> tuple[Pair, Pair]:
    """The same network with dense and with sparse gradients."""
    torch.manual_seed(0)
    dense = Pair()
    sparse = copy.deepcopy(dense)
    sparse_items(sparse)
    return dense, sparse


def test_where_every_row_is_looked_up_it_is_adam() -> None:
    dense, sparse = pair()
    theirs = torch.optim.AdamW(dense.parameters(), lr=0.1, weight_decay=0.0)
    ours = RowAdam(sparse.parameters(), lr=0.1, weight_decay=0.0, fused=True)
    for network, optimizer in ((dense, theirs), (sparse, ours)):
        for step in range(5):
            optimizer.zero_grad(set_to_none=True)
            network.loss(torch.tensor([0, 1, 2, 3, 4, 5, step])).backward()
            optimizer.step()
    assert sparse.item.weight.grad.is_sparse
    torch.testing.assert_close(sparse.state_dict(), dense.state_dict())


def test_it_is_torchs_sparse_adam_and_leaves_other_rows_alone() -> None:
    dense, sparse = pair()
    before = sparse.item.weight.detach().clone()
    sparse_items(dense)
    theirs = torch.optim.SparseAdam([dense.item.weight], lr=0.1)
    ours = RowAdam([sparse.item.weight], lr=0.1, weight_decay=0.0)
    for network, optimizer in ((dense, theirs), (sparse, ours)):
        for rows in ([1, 1, 2], [2], [4, 1]):
            optimizer.zero_grad(set_to_none=True)
            network.loss(torch.tensor(rows)).backward()
            optimizer.step()
    torch.testing.assert_close(sparse.item.weight, dense.item.weight)
    assert torch.equal(sparse.item.weight[[0, 3, 5]], before[[0, 3, 5]])


@pytest.mark.parametrize("largest", [0.01, 1e9])
def test_clipping_counts_sparse_gradients_as_it_counts_dense_ones(largest: float) -> None:
    dense, sparse = pair()
    rows = torch.tensor([1, 1, 2])
    dense.loss(rows).backward()
    sparse.loss(rows).backward()
    nn.utils.clip_grad_norm_(dense.parameters(), largest)
    clip_gradients(sparse.parameters(), largest)
    torch.testing.assert_close(sparse.item.weight.grad.to_dense(), dense.item.weight.grad)
    torch.testing.assert_close(sparse.matrix.weight.grad, dense.matrix.weight.grad)


class Interrupt(Silent):
    """Ends a training in the middle of an epoch, right after its progress was saved."""

    def __init__(self, after: int) -> None:
        self.left = after

    def batch(self, loss: float) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def train(folder: Path | None, config: TrainConfig, journal: Silent, *, resume: bool = False) -> Trained:
    machine, dataset = Machine(threads=1, save_every_seconds=0.0), cycle()
    machine.prepare()
    trainer = Trainer(build(TINY, len(dataset.items)), dataset, TINY.max_length, config, machine)
    return trainer.run(folder, journal, resume=resume)


@pytest.mark.parametrize("loss", [CONFIG.loss, InBatchSoftmax(uniform=4)], ids=["sampled", "in-batch"])
def test_training_by_rows_learns_a_circle(loss: SampledSoftmax) -> None:
    config = TrainConfig(
        loss=loss, epochs=50, batch_size=8, learning_rate=0.01, sparse_rows=True, clip_norm=1.0, accumulate=2
    )
    assert train(None, config, Silent()).best_ndcg_10 > 0.9


def test_a_broken_off_run_by_rows_resumes_to_the_very_same_parameters(tmp_path: Path) -> None:
    folder = tmp_path / "progress"
    with pytest.raises(KeyboardInterrupt):
        train(folder, CONFIG, Interrupt(47))
    resumed = train(folder, CONFIG, Silent(), resume=True)
    unbroken = train(None, CONFIG, Silent())
    assert [epoch.loss for epoch in resumed.history] == [epoch.loss for epoch in unbroken.history]
    for name, value in unbroken.parameters.items():
        assert torch.equal(value, resumed.parameters[name]), name


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "full softmax"),
        ({"loss": CONFIG.loss, "l2": 0.1}, r"\$\.train\.l2"),
        ({"loss": CONFIG.loss, "weight_decay": 0.1}, r"\$\.train\.weight_decay"),
        ({"loss": CONFIG.loss, "ema": 0.9}, r"\$\.train\.ema"),
        ({"loss": CONFIG.loss, "adversarial": FGM()}, r"\$\.train\.adversarial"),
    ],
)
def test_what_moves_every_row_is_refused(fields: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        TrainConfig(sparse_rows=True, **fields)  # type: ignore[arg-type]


def test_a_network_without_a_table_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\$\.train\.sparse_rows"):
        sparse_items(nn.Linear(2, 2))
