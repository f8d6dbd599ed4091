"""The protocols that networks keep, and the tensors that they eat.

`SequenceModel` and `Ranker` read a history; `FeatureRanker` reads rows of declared features.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol, Self, get_args, runtime_checkable

import msgspec
import numpy as np
import torch
from torch import Tensor

from millirec.data.encode import Batch
from millirec.data.errors import ConfigError
from millirec.data.features import Features, Schema
from millirec.models.counts import VoteTable
from millirec.models.layers.parts import Structure
from millirec.models.layers.table import Dense, TableConfig

Weights = Literal["fp32", "fp16", "bf16", "int8", "int8-static", "int4"]


class NetworkConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the configs of all networks have.

    `table`: how item vectors are kept. `weights`: how all other parameters are. "fp16" and "bf16" are stored so and
    computed with as floats; "int8" computes linear layers in integers, its inputs scaled as they come;
    "int8-static" scales them as calibrated; "int4" keeps the weights of linear layers so and computes with floats.
    """

    table: TableConfig = Dense()
    weights: Weights = "fp32"

    def __post_init__(self) -> None:
        if self.weights not in get_args(Weights):
            raise ConfigError(f"$.model.weights = {self.weights!r}", f"use one of {', '.join(get_args(Weights))}")

    def structure(self) -> Structure:
        """What can be left out of the network."""
        return Structure()

    def shrunk(self, counts: Mapping[str, int], blocks: Sequence[int]) -> Self:
        """The config of the network that is left: `counts` units of the parts named, and these blocks."""
        del counts, blocks
        return self


class Inputs(NamedTuple):
    """A `Batch` as tensors: `items` (B, L) int, `lengths` (B,) int, `times` (B, L) and `now` (B,) int64 milliseconds.

    `now` is the time of the question: in training, the time of the event that follows the last one.
    """

    items: Tensor
    lengths: Tensor
    times: Tensor
    now: Tensor

    @classmethod
    def of(cls, batch: Batch, device: str | torch.device = "cpu") -> "Inputs":
        """The same arrays on a device."""
        arrays = (batch.items, batch.lengths, batch.times, batch.now)
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

    def item_vectors(self, rows: Tensor | None = None) -> Tensor:
        """(n_items + 1, d), or the vectors (..., d) of int64 `rows`; row 0 (padding) is never to be recommended."""


@runtime_checkable
class Masked(Protocol):
    """A sequence model that learns to fill gaps instead of to go on.

    What it learns from is drawn from torch's global generator, whose state the trainer keeps.
    """

    def masked_pairs(self, inputs: Inputs, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden vectors (N, d) at masked places and the items (N,) that stood there.

        `targets` int64 (B, L): the item after each event of `inputs`, 0 = none.
        """


@runtime_checkable
class Stepwise(Protocol):
    """A sequence model that can go on from a small state instead of reading the history again.

    The state holds all but the newest event. `step` takes that event in and answers: it gives the same vector as
    `user_vectors` of the whole history, however long. The state after it belongs to a history whose next event
    is at `now`: a server keeps the state from before its newest event, answers from a step at the time of the
    question and throws that step's state away, and keeps it when the next event comes, at that event's time.
    """

    state_size: int

    def step(self, state: Tensor, items: Tensor, times: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (B, d) and new states (B, state_size).

        `state` (B, state_size), all zeros at the start; `items` int (B,) and `times` int64 (B,): the event taken
        in; `now` int64 (B,): when the question is put.
        """


@runtime_checkable
class Carried(Stepwise, Protocol):
    """A stepwise model that can also tell which state a whole history leaves: where a server starts from."""

    def prefill(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The vectors (B, d) of `user_vectors`, and the states (B, state_size) that the newest events meet."""


@runtime_checkable
class Ranker(Protocol):
    """Candidates -> scores, given a history."""

    def scores(self, inputs: Inputs, candidates: Tensor | None = None) -> Tensor:
        """Scores (B, C) of candidate rows (B, C), or (B, n_items + 1) of the whole catalogue when None."""


class RankInputs(NamedTuple):
    """Rows of `Features` as tensors, which is all that a feature ranker reads: its graph has these four inputs.

    `ids` int32 (B, C): categorical features. `numbers` float32 (B, D). `lists` int32 (B, V): multi-valued features side
    by side, each padded with 0 to its own width. `sequences` int32 (B, S, L): ids oldest first, padded with 0 on the
    right; L is the longest of these rows, at least 1.
    """

    ids: Tensor
    numbers: Tensor
    lists: Tensor
    sequences: Tensor

    @classmethod
    def of(cls, features: Features, schema: Schema, device: str | torch.device = "cpu") -> "RankInputs":
        """The same rows on a device."""
        n = len(features)
        newest = [rows.last(space.length) for rows, space in zip(features.sequences, schema.sequences, strict=True)]
        longest = max([1, *(int((rows.ends - rows.starts).max(initial=0)) for rows in newest)])
        lists = [rows.padded(space.width) for rows, space in zip(features.lists, schema.lists, strict=True)]
        arrays = (
            features.ids,
            features.numbers,
            np.concatenate([np.zeros((n, 0), np.int32), *lists], axis=1),
            np.stack([rows.padded(longest) for rows in newest], axis=1)
            if newest
            else np.zeros((n, 0, longest), np.int32),
        )
        return cls(*(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in arrays))


@runtime_checkable
class FeatureRanker(Protocol):
    """Rows of features -> scores: who asks, what is shown, when and where, each pair a row.

    Where a `Ranker` is asked for any item of a catalogue, given a history, this one is asked for a few candidates of
    which more is known. Its scores are logits: their sigmoid is the chance of a success.
    """

    schema: Schema

    def forward(self, inputs: RankInputs) -> Tensor:
        """Logits (B,)."""


@runtime_checkable
class MultiTask(Protocol):
    """A feature ranker that learns several outcomes of a row; `forward` gives the one score that is served.

    `tasks`: their names; `loss_weights`: what the loss of each counts.
    """

    tasks: tuple[str, ...]
    loss_weights: tuple[float, ...]

    def task_logits(self, inputs: RankInputs) -> Tensor:
        """Logits (B, T), in the order of `tasks`."""


@runtime_checkable
class ClosedForm(Protocol):
    """A model without gradient steps: it is fitted to the training events at once."""

    def fit(self, users: Tensor, items: Tensor, times: Tensor) -> None:
        """Learn from training events given as columns (n,): user rows, item rows, milliseconds."""


@runtime_checkable
class Votes(Protocol):
    """A baseline whose scores are at least 0, such as counts: their shares say what it expects."""

    votes: bool


@runtime_checkable
class Counted(Protocol):
    """A baseline whose votes can stand beside a network in a bundle."""

    def count_table(self) -> VoteTable:
        """What votes, as it is served."""


def catalog_scores(model: SequenceModel | Ranker, inputs: Inputs) -> Tensor:
    """Scores of the whole catalogue, (B, n_items + 1), from either kind of model."""
    return catalog_scorer(model)(inputs)


def catalog_scorer(model: SequenceModel | Ranker) -> Callable[[Inputs], Tensor]:
    """`catalog_scores` for many batches: item vectors are made once, which a compressed table is slow at."""
    if isinstance(model, Ranker):
        return model.scores
    items = model.item_vectors().T
    return lambda inputs: model.user_vectors(inputs) @ items
