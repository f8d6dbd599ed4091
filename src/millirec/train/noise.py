"""Noisy histories: what a model reads when events were lost, came in another order, or were not the user's."""

import zlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from millirec.data.encode import encode
from millirec.models.base import Inputs, Ranker, SequenceModel, catalog_scores
from millirec.train.machine import generator

Kind = Literal["drop", "swap", "inject"]
Rows = NDArray[np.int32]
Times = NDArray[np.int64]

_NOISE = 13  # stream of random numbers


class Noisy(nn.Module):
    """A model that reads each history with noise; a `Ranker`, whatever the model is.

    The noise of a history is a function of the history and of the seed: neither the batch nor the model changes it.
    What is left out as seen is not this type's business, so the true history may still decide it.
    """

    def __init__(
        self, model: SequenceModel | Ranker, kind: Kind, share: float, n_items: int, max_length: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.model = model
        self.kind, self.share, self.n_items, self.max_length, self.seed = kind, share, n_items, max_length, seed

    def scores(self, inputs: Inputs, candidates: Tensor | None = None) -> Tensor:
        """Scores (B, C) of candidate rows (B, C), or (B, n_items + 1) of the whole catalogue when None."""
        lengths = inputs.lengths.tolist()
        items = [row[:n] for row, n in zip(inputs.items.cpu().numpy(), lengths, strict=True)]
        times = [row[:n] for row, n in zip(inputs.times.cpu().numpy(), lengths, strict=True)]
        read = [self._disturbed(*history) for history in zip(items, times, strict=True)]
        batch = encode([r[0] for r in read], [r[1] for r in read], self.max_length, inputs.now.cpu().numpy())
        found = catalog_scores(self.model, Inputs.of(batch, inputs.items.device))
        return found if candidates is None else found.gather(1, candidates)

    def _disturbed(self, items: Rows, times: Times) -> tuple[Rows, Times]:
        rng = generator(self.seed, _NOISE, zlib.crc32(items.tobytes() + times.tobytes()))
        match self.kind:
            case "drop":
                return dropped(items, times, self.share, rng)
            case "swap":
                return swapped(items, self.share, rng), times
            case "inject":
                return injected(items, times, self.share, self.n_items, rng)


def dropped(items: Rows, times: Times, share: float, rng: np.random.Generator) -> tuple[Rows, Times]:
    """Each event is lost with probability `share`; one is always left."""
    kept = rng.random(len(items)) >= share
    if len(kept) and not kept.any():
        kept[-1] = True
    return items[kept], times[kept]


def swapped(items: Rows, share: float, rng: np.random.Generator) -> Rows:
    """Each item changes places with a neighbour with probability `share`; the times stay."""
    first = np.arange(rng.integers(0, 2), len(items) - 1, 2)
    first = first[rng.random(len(first)) < share]
    out = items.copy()
    out[first], out[first + 1] = items[first + 1], items[first]
    return out


def injected(items: Rows, times: Times, share: float, n_items: int, rng: np.random.Generator) -> tuple[Rows, Times]:
    """`share` times as many random items of the catalogue come in between, at the time of the event after them."""
    at = np.sort(rng.integers(0, len(items), rng.binomial(len(items), share)))
    strange = rng.integers(1, n_items + 1, len(at)).astype(np.int32)
    return np.insert(items, at, strange), np.insert(times, at, times[at])
