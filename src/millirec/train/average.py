"""`WeightAverage`: an exponential average of a network's parameters over the steps of its training.

Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM 1992, in the exponential form of
Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class WeightAverage:
    """Keeps a copy of every parameter that follows it slowly.

    After `t` steps the decay is min(decay, (1 + t) / (10 + t)): the random weights of the start are forgotten soon.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = dict(network.named_parameters())
        self.averages: dict[str, Tensor] = {name: value.detach().clone() for name, value in self._live.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take in the parameters after step number `updates` (from 1)."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(list(self.averages.values()), [p.detach() for p in self._live.values()], 1 - decay)

    def load(self, averages: dict[str, Tensor]) -> None:
        """Take up averages that were saved."""
        for name, value in self.averages.items():
            value.copy_(averages[name])

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The network computes with the averages; afterwards it has its own parameters again, bit for bit."""
        own = {name: value.detach().clone() for name, value in self._live.items()}
        _put(self._live, self.averages)
        try:
            yield
        finally:
            _put(self._live, own)


@torch.no_grad()
def _put(live: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    for name, parameter in live.items():
        parameter.copy_(values[name])
