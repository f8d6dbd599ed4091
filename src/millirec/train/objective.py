"""`Objective`: the loss of one batch, from the network's vectors to a number to be minimised."""

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from millirec.data.dataset import Dataset
from millirec.models.base import Inputs, Masked, SequenceModel
from millirec.train.batches import TrainBatch
from millirec.train.losses import GBCE, FullSoftmax, InBatchSoftmax, LossConfig, Sampled, full_softmax
from millirec.train.losses.binary import binary
from millirec.train.losses.softmax import SampledSoftmax, corrected, sampled_softmax
from millirec.train.negatives import BatchSampler, CatalogSampler, Negatives, Sampler, hardest, uncorrected


class Wanted(NamedTuple):
    """What a batch is to find: `targets` int64 (B, L), the item after each event, 0 = none.

    `places` int64 (B, L): where each of them stands in `dataset.sequences`.
    """

    targets: Tensor
    places: Tensor

    @classmethod
    def of(cls, batch: TrainBatch, device: str | torch.device = "cpu") -> "Wanted":
        """The same arrays on a device."""
        return cls(torch.from_numpy(batch.targets).to(device), torch.from_numpy(batch.places).to(device))


class BatchLoss(Protocol):
    """What a trainer minimises. `key` names all that decides it beside the training's own settings."""

    key: str

    def __call__(self, model: SequenceModel, inputs: Inputs, wanted: Wanted, rng: np.random.Generator) -> Tensor:
        """A scalar: the mean over the targets. `rng` is the one source of its random numbers."""


class Objective:
    """The loss that a config describes, over the catalogue of a data set. It is a `BatchLoss`.

    Called inside or outside of autocast; the loss itself is computed in float32. A loss that samples asks the model
    only for the vectors of the items that it compares, unless that costs more than the whole table; with
    `rows_only` it never asks for the table.
    """

    key = ""

    def __init__(self, config: LossConfig, dataset: Dataset, device: torch.device, *, rows_only: bool = False) -> None:
        self._config, self._n_items, self._rows_only = config, len(dataset.items), rows_only
        self._sampler = None if isinstance(config, FullSoftmax) else _sampler(config, dataset, device)

    def __call__(self, model: SequenceModel, inputs: Inputs, wanted: Wanted, rng: np.random.Generator) -> Tensor:
        """As `BatchLoss`; `rng` draws the negatives."""
        hidden, items = pairs(model, inputs, wanted.targets)
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            if self._sampler is None:
                return full_softmax(hidden, model.item_vectors().float(), items)
            negatives = self._sampler.draw(items, rng)
            if isinstance(self._config, Sampled) and self._config.sampling == "adaptive":
                negatives = self._adapt(model, hidden.detach(), items, negatives)
            return self._compare(model, hidden, items, negatives)

    def _adapt(self, model: SequenceModel, hidden: Tensor, wanted: Tensor, pool: Negatives) -> Negatives:
        assert isinstance(self._config, Sampled)  # noqa: S101
        if self._config.per_row:  # `contrast` keeps the best of each row
            return uncorrected(pool.rows, wanted)
        with torch.no_grad():
            vectors = model.item_vectors(pool.rows).float()
            return hardest(hidden, wanted, vectors, pool, self._config.negatives)

    def _compare(self, model: SequenceModel, hidden: Tensor, wanted: Tensor, negatives: Negatives) -> Tensor:
        if self._rows_only or self._n_items > len(wanted) + negatives.rows.numel():
            rows, places = torch.unique(torch.cat([wanted, negatives.rows.flatten()]), return_inverse=True)
            items = model.item_vectors(rows).float()
            wanted, drawn = places[: len(wanted)], places[len(wanted) :]
            negatives = negatives._replace(rows=drawn.view(negatives.rows.shape))
        else:
            items = model.item_vectors().float()
        config = self._config
        if isinstance(config, InBatchSoftmax):
            return sampled_softmax(hidden, items, wanted, corrected(negatives, config.correction))
        assert isinstance(config, Sampled)  # noqa: S101
        keep = config.negatives if config.sampling == "adaptive" and config.per_row else 0
        if isinstance(config, SampledSoftmax):
            return sampled_softmax(hidden, items, wanted, corrected(negatives, config.correction), keep)
        power = config.power_of(self._n_items) if isinstance(config, GBCE) else 1.0
        return binary(hidden, items, wanted, negatives, power, keep)


def pairs(model: SequenceModel, inputs: Inputs, targets: Tensor) -> tuple[Tensor, Tensor]:
    """What is learnt from: vectors (N, d) and the items (N,) that they are to find."""
    if isinstance(model, Masked):
        return model.masked_pairs(inputs, targets)
    places = targets.flatten().nonzero().squeeze(1)
    return model.forward(inputs).flatten(0, 1)[places], targets.flatten()[places]


def _sampler(config: Sampled | InBatchSoftmax, dataset: Dataset, device: torch.device) -> Sampler:
    popularity = dataset.popularity
    if isinstance(config, InBatchSoftmax):
        return BatchSampler(popularity, config.negatives, config.uniform, device)
    if config.sampling == "in-batch":
        return BatchSampler(popularity, config.negatives, device=device)
    adaptive = config.sampling == "adaptive"
    power = config.power if config.sampling == "popularity" else 0.0
    # Adaptive negatives are chosen from a shared pool, by the batch or by each row.
    alone = config.per_row and not adaptive
    return CatalogSampler(popularity, config.candidates, power=power, per_row=alone, device=device)
