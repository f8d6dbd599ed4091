import contextlib

import pytest
import torch

from millirec.data.errors import ConfigError
from millirec.models.base import SequenceModel
from millirec.models.config import ModelConfig, build
from millirec.models.sasrec import SASRecConfig
from millirec.train.adversarial import FGM, PGD, Adversary, item_table, mean_length, moved, perturbation, random_change
from millirec.train.fit import fit
from millirec.train.journal import Silent
from millirec.train.machine import Machine, generator
from millirec.train.trainer import TrainConfig, Trainer
from tests.contracts.test_models import CONFIGS, small
from tests.logs import cycle

TINY = SASRecConfig(embedding_dim=16, blocks=1, heads=1, max_length=8, dropout=0.2)
SEQUENCE_MODELS = [config for config in CONFIGS if isinstance(build(small(config), 3), SequenceModel)]
ATTACKS = [FGM(epsilon=0.3), PGD(epsilon=0.3, steps=4)]


def table(n: int = 30, width: int = 6) -> torch.Tensor:
    out = torch.randn(n + 1, width, generator=torch.Generator().manual_seed(1))
    out[0] = 0
    return out.requires_grad_()


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_row_moves_farther_than_epsilon_and_padding_not_at_all(attack: FGM | PGD) -> None:
    rows = table()
    wanted = torch.randn(6, generator=torch.Generator().manual_seed(2))
    delta = perturbation(attack, rows, lambda: torch.autograd.grad((rows @ wanted).sum(), rows)[0], generator(0, 1))
    lengths = delta.norm(dim=1)
    assert lengths[0] == 0
    assert lengths.max() <= 0.3 * mean_length(rows) * (1 + 1e-5)
    # The loss is linear, so its worst point is on the rim, straight along the gradient.
    assert (delta[1:] @ wanted).numpy() == pytest.approx(0.3 * mean_length(rows) * wanted.norm().item(), rel=0.05)


def test_fgm_leaves_rows_without_a_gradient_alone() -> None:
    rows = table()
    delta = perturbation(FGM(), rows, lambda: torch.autograd.grad(rows[3:5].sum(), rows)[0], generator(0, 1))
    assert torch.equal(delta.norm(dim=1).nonzero().squeeze(1), torch.tensor([3, 4]))


def test_pgd_finds_a_worse_point_than_fgm_where_the_loss_bends() -> None:
    rows = table()

    def loss() -> torch.Tensor:
        return torch.sin(6 * rows).sum()

    worse = {}
    for attack in (FGM(epsilon=0.5), PGD(epsilon=0.5, steps=20)):
        delta = perturbation(attack, rows, lambda: torch.autograd.grad(loss(), rows)[0], generator(0, 1))
        with moved(rows, delta):
            worse[type(attack)] = loss().item()
    assert worse[PGD] > worse[FGM]


def test_the_table_comes_back_bit_for_bit() -> None:
    rows = table()
    own = rows.detach().clone()
    with contextlib.suppress(KeyError), moved(rows, random_change(rows, 3.0, generator(0, 1))):
        assert not torch.equal(rows, own)
        raise KeyError
    assert torch.equal(rows, own)


def test_random_changes_fill_the_ball_evenly() -> None:
    lengths = random_change(torch.zeros(20_001, 3), 2.0, generator(0, 1))[1:].norm(dim=1)
    assert lengths.max() <= 2.0
    assert (lengths < 1.0).float().mean().item() == pytest.approx(1 / 8, abs=0.01)


def test_gradients_are_the_mixture_and_add_to_those_that_are_there() -> None:
    """loss = sum(table * c): its gradient is c everywhere, so clean and adversarial parts add up to c."""
    network = build(TINY, 12)
    rows, c = item_table(network), torch.arange(13.0 * 16).view(13, 16)
    rows.grad = torch.ones_like(rows)
    loss = Adversary(FGM(share=0.3), rows).backward(lambda: (rows * c).sum(), 0.5, generator(0, 1))
    torch.testing.assert_close(rows.grad, 1 + 0.5 * c)
    assert loss.item() == pytest.approx((rows * c).sum().item())


def test_every_pass_sees_the_same_dropout() -> None:
    network = build(TINY, 12)
    rows, seen = item_table(network), []

    def loss() -> torch.Tensor:
        seen.append(torch.rand(5))
        return rows.sum()

    Adversary(PGD(steps=3), rows).backward(loss, 1.0, generator(0, 1))
    assert len(seen) == 5
    assert all(torch.equal(draws, seen[0]) for draws in seen)


@pytest.mark.parametrize("attack", ATTACKS, ids=["fgm", "pgd"])
@pytest.mark.parametrize("config", SEQUENCE_MODELS, ids=lambda config: type(config).__name__)
def test_every_sequence_model_learns_under_attack(config: ModelConfig, attack: FGM | PGD) -> None:
    train = TrainConfig(epochs=3, batch_size=16, learning_rate=0.01, adversarial=attack)
    checkpoint = fit(cycle(), small(config), train, Machine(threads=1), Silent())
    clean = fit(cycle(), small(config), TrainConfig(epochs=3, batch_size=16, learning_rate=0.01), Machine(), Silent())
    assert not torch.equal(checkpoint.parameters["item.weight"], clean.parameters["item.weight"])
    assert all(torch.isfinite(value).all() for value in checkpoint.parameters.values())
    assert (checkpoint.parameters["item.weight"][0] == 0).all()


def test_it_still_learns_the_circle() -> None:
    machine = Machine(threads=1)
    machine.prepare()
    config = TrainConfig(epochs=60, batch_size=8, learning_rate=0.01, adversarial=FGM())
    assert Trainer(build(TINY, 12), cycle(), 8, config, machine).run(None, Silent()).best_ndcg_10 > 0.9


@pytest.mark.parametrize(
    "config", [c for c in CONFIGS if c not in SEQUENCE_MODELS], ids=lambda config: type(config).__name__
)
def test_a_model_without_gradients_is_refused_by_name(config: ModelConfig) -> None:
    with pytest.raises(ConfigError, match=type(build(config, 3)).__name__):
        fit(cycle(), config, TrainConfig(adversarial=FGM()), Machine(), Silent())
