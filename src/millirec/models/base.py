"""The two protocols that every network keeps, and the tensors that they eat."""

from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from millirec.data.encode import Batch


class Inputs(NamedTuple):
    """A `Batch` as tensors: `items` (B, L) int, `lengths` (B,) int, `times` (B, L) int64 milliseconds."""

    items: Tensor
    lengths: Tensor
    times: Tensor

    @classmethod
    def of(cls, batch: Batch, device: str | torch.device = "cpu") -> "Inputs":
        """The same arrays on a device."""
        arrays = (batch.items, batch.lengths, batch.times)
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))


@runtime_checkable
class SequenceModel(Protocol):
    """History -> user vector; the score of an item is the inner product with its vector.

    `inputs` names the fields of `Inputs` that the network reads: they become the inputs of its exported graph.
    """

    inputs: ClassVar[tuple[str, ...]]

    def forward(self, inputs: Inputs) -> Tensor:
        """A vector after each event, (B, L, d); places beyond the length hold anything."""

    def user_vectors(self, inputs: Inputs) -> Tensor:
        """The vector after the last event, (B, d)."""

    def item_vectors(self) -> Tensor:
        """(n_items + 1, d); row 0 (padding) is never to be recommended."""


@runtime_checkable
class Ranker(Protocol):
    """Candidates -> scores, given a history."""

    def scores(self, inputs: Inputs, candidates: Tensor | None = None) -> Tensor:
        """Scores (B, C) of candidate rows (B, C), or (B, n_items + 1) of the whole catalogue when None."""


@runtime_checkable
class ClosedForm(Protocol):
    """A model without gradient steps: it is fitted to the training events at once."""

    def fit(self, users: Tensor, items: Tensor, times: Tensor) -> None:
        """Learn from training events given as columns (n,): user rows, item rows, milliseconds."""


def catalog_scores(model: SequenceModel | Ranker, inputs: Inputs) -> Tensor:
    """Scores of the whole catalogue, (B, n_items + 1), from either kind of model."""
    if isinstance(model, Ranker):
        return model.scores(inputs)
    return model.user_vectors(inputs) @ model.item_vectors().T
