"""Samplers of negative items, vectorised over a batch."""

from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Sampling = Literal["uniform", "popularity", "in-batch", "adaptive"]

_PROBES = 256  # vectors of a batch that choose the negatives of all of it


class Negatives(NamedTuple):
    """Drawn items: distinct and shared by the batch, (m,), or of each target, (N, m).

    `rows` int64: the items. `counts` float32: how often each was drawn. `log_expected` float32: the log of its expected
    count, and `log_expected_wanted` float32 (N,) that of the targets; all 0 where nothing is to be corrected.
    """

    rows: Tensor
    counts: Tensor
    log_expected: Tensor
    log_expected_wanted: Tensor


class Sampler(Protocol):
    """Draws the negatives of a batch whose targets are `wanted` int64 (N,)."""

    def draw(self, wanted: Tensor, rng: np.random.Generator) -> Negatives:
        """The same generator gives the same negatives."""


class CatalogSampler:
    """Draws item rows with replacement from 1..n in proportion to popularity ** power; power 0 is uniform.

    `popularity` (n_items + 1,): row 0 is never drawn; an item that was never seen keeps a small chance, so that every
    item learns to be scored.
    """

    def __init__(
        self,
        popularity: NDArray[np.int64],
        negatives: int,
        *,
        power: float = 0.0,
        per_row: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self._n_items, self._negatives, self._per_row = len(popularity) - 1, negatives, per_row
        weights = np.power(popularity.astype(np.float64), power)
        weights = np.maximum(weights, weights[1:].max() * 1e-6)
        weights[0] = 0
        self._cumulative = np.cumsum(weights) if power else None
        self._log_expected = _log(weights / weights.sum() * negatives, device)

    def draw(self, wanted: Tensor, rng: np.random.Generator) -> Negatives:
        """`negatives` rows for the batch, or for each target."""
        if self._per_row:
            rows = torch.from_numpy(self._rows((len(wanted), self._negatives), rng)).to(wanted.device)
            counts = torch.ones((), device=wanted.device).expand(rows.shape)
        else:
            rows, counts = _distinct(torch.from_numpy(self._rows((self._negatives,), rng)).to(wanted.device))
        return Negatives(rows, counts, self._log_expected[rows], self._log_expected[wanted])

    def _rows(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
        if self._cumulative is None:
            return rng.integers(1, self._n_items + 1, shape)
        rows = np.searchsorted(self._cumulative, rng.random(shape) * self._cumulative[-1], side="right")
        clipped: NDArray[np.int64] = np.clip(rows, 1, self._n_items)
        return clipped


class BatchSampler:
    """Takes `negatives` of the batch's targets (0 = all of them), and adds `uniform` items of the whole catalogue.

    An item's expected count is the number taken times its share of the training events, plus its chance among the
    uniform ones.
    """

    def __init__(
        self, popularity: NDArray[np.int64], negatives: int, uniform: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self._negatives, self._uniform, self._n_items = negatives, uniform, len(popularity) - 1
        share = np.maximum(popularity, 0.5) / max(1, popularity.sum())
        share[0] = 0
        self._share = torch.from_numpy(share).to(device)

    def draw(self, wanted: Tensor, rng: np.random.Generator) -> Negatives:
        """Distinct rows, with how often each was met."""
        taken = wanted
        if 0 < self._negatives < len(wanted):
            taken = wanted[torch.from_numpy(rng.permutation(len(wanted))[: self._negatives]).to(wanted.device)]
        more = torch.from_numpy(rng.integers(1, self._n_items + 1, self._uniform)).to(wanted.device)
        rows, counts = _distinct(torch.cat([taken, more]))

        def expected(which: Tensor) -> Tensor:
            return (self._share[which] * len(taken) + self._uniform / self._n_items).log().float()

        return Negatives(rows, counts, expected(rows), expected(wanted))


def hardest(hidden: Tensor, wanted: Tensor, vectors: Tensor, pool: Negatives, keep: int) -> Negatives:
    """Those `keep` of a shared pool that take most of the softmax's probability from the targets of a batch.

    `hidden` (N, d) and `wanted` (N,) as in training, `vectors` (m, d) those of `pool.rows`. Some rows, evenly spread
    over the batch, decide for all. What is kept is no sample of the catalogue: there is nothing to correct.
    """
    probes = slice(None, None, -(-len(hidden) // _PROBES))
    logits = hidden[probes] @ vectors.T
    logits.masked_fill_(pool.rows[None, :] == wanted[probes, None], -torch.inf)
    weights = torch.softmax(logits, 1).nan_to_num_(0.0).sum(0)
    rows = pool.rows[weights.topk(min(keep, len(weights)), sorted=False).indices]
    return uncorrected(rows, wanted)


def uncorrected(rows: Tensor, wanted: Tensor) -> Negatives:
    """These rows, each met once, to be taken as they are."""
    nothing = torch.zeros(rows.shape, device=rows.device)
    return Negatives(rows, nothing + 1, nothing, torch.zeros(len(wanted), device=rows.device))


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    kept, counts = torch.unique(rows, return_counts=True)
    return kept, counts.float()


def _log(expected: NDArray[np.float64], device: torch.device | str) -> Tensor:
    with np.errstate(divide="ignore"):
        logs = np.log(expected)
    logs[0] = 0
    return torch.from_numpy(logs.astype(np.float32)).to(device)
