"""Adversarial training: the loss also under the worst small change of the item vectors.

FGM: Miyato, Dai and Goodfellow, "Adversarial Training Methods for Semi-Supervised Text Classification", ICLR 2017.
PGD: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018. On the item vectors of
a recommender first in He et al., "Adversarial Personalized Ranking for Recommendation", SIGIR 2018.
"""

import contextlib
from collections.abc import Callable, Iterator

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from millirec.data.errors import ConfigError
from millirec.models.rankers.fields import FieldVectors


class FGM(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="fgm"):
    """One step of length `epsilon` along the gradient, in L2, for each item's vector.

    `epsilon` is relative to the mean length of the item vectors, so it means the same for every model. `share` is
    the weight of the adversarial loss; the clean loss has the rest.
    """

    epsilon: float = 0.2
    share: float = 0.5

    def __post_init__(self) -> None:
        _check(self.epsilon, self.share)


class PGD(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="pgd"):
    """From a random point of the ball of radius `epsilon`, `steps` steps of `step_size`, each brought back into it.

    `epsilon` and `step_size` are relative to the mean length of the item vectors; no `step_size` means 2.5 times
    `epsilon` / `steps`, as Madry et al. chose. `share` as for FGM.
    """

    epsilon: float = 0.2
    share: float = 0.5
    steps: int = 3
    step_size: float | None = None

    def __post_init__(self) -> None:
        _check(self.epsilon, self.share)
        if self.steps < 1:
            raise ConfigError(f"$.train.adversarial.steps = {self.steps}", "choose at least 1")
        if self.step_size is not None and not self.step_size > 0:
            raise ConfigError(f"$.train.adversarial.step_size = {self.step_size}", "choose a size above 0")


AdversarialConfig = FGM | PGD


class Adversary:
    """Adds to the gradients of a batch those of the loss under attack, which changes the rows of one table only: the
    vectors of items, or those of all values of a ranker's features."""

    def __init__(self, config: AdversarialConfig, table: Tensor) -> None:
        self.config, self.table = config, table

    def backward(self, loss_of: Callable[[], Tensor], scale: float, rng: np.random.Generator) -> Tensor:
        """Add the gradients of `scale` times the mixed loss; returns the clean loss.

        `loss_of` computes the loss of the batch. It is called anew for each point of the attack, with the same draws
        of dropout and masks. `rng` draws where PGD begins.
        """
        share, draws = self.config.share, _draws(self.table.device)
        held = self.table.grad
        self.table.grad = None
        loss = loss_of()
        (loss * ((1 - share) * scale)).backward()  # type: ignore[no-untyped-call]
        gradient = _gradient(self.table)

        def again() -> Tensor:
            _restore(draws, self.table.device)
            return loss_of()

        def ascent() -> Tensor:
            if isinstance(self.config, FGM):
                return gradient  # only its direction counts, so the clean pass has it already
            return torch.autograd.grad(again(), self.table)[0]

        delta = perturbation(self.config, self.table, ascent, rng)
        with moved(self.table, delta):
            (again() * (share * scale)).backward()  # type: ignore[no-untyped-call]
        if held is not None:
            _gradient(self.table).add_(held)
        return loss.detach()


def item_table(network: nn.Module) -> Tensor:
    """The item vectors (n_items + 1, d) that a sequence model learns. Raises ConfigError when it has none."""
    item = getattr(network, "item", None)
    if not isinstance(item, nn.Embedding):
        raise ConfigError(
            f"$.train.adversarial: {type(network).__name__} has no item vectors that could be perturbed",
            "leave it out, or choose a sequence model with $.model.table.kind = 'dense'",
        )
    return item.weight


def value_table(network: nn.Module) -> Tensor:
    """The vectors (values, d) that a feature ranker learns, the wider ones of two tables.

    Raises ConfigError when it has none.
    """
    vectors = [module.table for module in network.modules() if isinstance(module, FieldVectors)]
    tables = [table.weight for table in vectors if isinstance(table, nn.Embedding)]
    if not tables:
        raise ConfigError("$.train.adversarial: this ranker has no vectors that could be perturbed", "leave it out")
    return max(tables, key=lambda table: table.shape[1])


def perturbation(
    attack: AdversarialConfig, table: Tensor, gradient_of: Callable[[], Tensor], rng: np.random.Generator
) -> Tensor:
    """The change of `table` (n + 1, d) that an attack finds; row 0 (padding) and rows without gradient rest in FGM.

    `gradient_of` gives the gradient of the loss at the table as it stands when called.
    """
    radius = attack.epsilon * mean_length(table)
    match attack:
        case FGM():
            delta = _rows_of_length(gradient_of(), radius)
            delta[0] = 0
            return delta
        case PGD(steps=steps, step_size=size):
            step = mean_length(table) * (size if size is not None else 2.5 * attack.epsilon / steps)
            delta = random_change(table, radius, rng)
            for _ in range(steps):
                with moved(table, delta):
                    gradient = gradient_of()
                delta = _inside(delta + _rows_of_length(gradient, step), radius)
                delta[0] = 0
            return delta


def mean_length(table: Tensor) -> float:
    """The mean L2 norm of rows 1..n."""
    return float(table.detach()[1:].float().norm(dim=1).mean())


def random_change(table: Tensor, radius: float, rng: np.random.Generator) -> Tensor:
    """For each row but the first a point drawn evenly from the ball of `radius`; same shape as `table`."""
    n, width = table.shape
    direction = torch.from_numpy(rng.standard_normal((n, width), np.float32))
    length = torch.from_numpy(radius * rng.random((n, 1)) ** (1 / width)).float()
    delta = _rows_of_length(direction, 1.0) * length
    delta[0] = 0
    return delta.to(table)


@contextlib.contextmanager
def moved(table: Tensor, delta: Tensor) -> Iterator[None]:
    """`table` + `delta` for a while; afterwards the old values again, bit for bit."""
    own = table.detach().clone()
    table.data.add_(delta)
    try:
        yield
    finally:
        table.data.copy_(own)


def _check(epsilon: float, share: float) -> None:
    if not epsilon > 0:
        raise ConfigError(f"$.train.adversarial.epsilon = {epsilon}", "choose a length above 0, such as 0.2")
    if not 0 < share < 1:
        raise ConfigError(f"$.train.adversarial.share = {share}", "choose a share above 0 and below 1")


def _gradient(table: Tensor) -> Tensor:
    return torch.zeros_like(table) if table.grad is None else table.grad


def _rows_of_length(rows: Tensor, length: float) -> Tensor:
    norms = rows.norm(dim=1, keepdim=True)
    return torch.where(norms > 0, rows * (length / norms), torch.zeros_like(rows))


def _inside(rows: Tensor, radius: float) -> Tensor:
    norms = rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
    inside: Tensor = rows * (radius / norms).clamp_max(1.0)
    return inside


def _draws(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _restore(draws: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(draws, device)
    else:
        torch.set_rng_state(draws)
