"""Samplers of negative items, vectorised over a batch."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Negatives(NamedTuple):
    """`rows` int64 (m,): the drawn items. `log_expected` float32 (n_items + 1,): log of each item's expected count."""

    rows: Tensor
    log_expected: Tensor


class NegativeSampler:
    """Draws item rows with replacement from 1..n in proportion to `weights`.

    `weights` (n_items + 1,): row 0 is never drawn; an item that was never seen keeps a small chance, so that
    every item learns to be scored.
    """

    def __init__(self, weights: NDArray[np.float64], n_negatives: int, device: torch.device) -> None:
        share = np.maximum(weights, weights[1:].max() * 1e-6)
        share[0] = 0
        share /= share.sum()
        self.n_negatives, self.device = n_negatives, device
        self._cumulative = np.cumsum(share)
        with np.errstate(divide="ignore"):
            log_expected = np.log(share * n_negatives)
        log_expected[0] = 0
        self._log_expected = torch.from_numpy(log_expected.astype(np.float32)).to(device)

    @classmethod
    def of(
        cls, popularity: NDArray[np.int64], n_negatives: int, power: float, device: torch.device
    ) -> "NegativeSampler":
        """In proportion to popularity ** power; power 0 is uniform."""
        return cls(
            np.power(popularity.astype(np.float64), power) if power else np.ones(len(popularity)),
            n_negatives,
            device,
        )

    def draw(self, rng: np.random.Generator) -> Negatives:
        """The negatives of one batch."""
        rows = np.searchsorted(self._cumulative, rng.random(self.n_negatives), side="right")
        rows = np.clip(rows, 1, len(self._cumulative) - 1)
        return Negatives(torch.from_numpy(rows).to(self.device), self._log_expected)
