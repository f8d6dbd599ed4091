"""`Taught`: the loss of a student that listens to lessons."""

import numpy as np
import torch
from torch import Tensor

from millirec.compress.lessons import Lessons
from millirec.models.base import Inputs, SequenceModel
from millirec.train.losses.soft import Blend, Listed, soft_softmax
from millirec.train.losses.soft_sampled import soft_sampled_softmax
from millirec.train.negatives import CatalogSampler
from millirec.train.objective import Wanted


class Taught:
    """Cross-entropy with the next item and with what teachers answer. It is a `BatchLoss`.

    Over the whole catalogue, or with a `sampler` over what the lessons list and negatives that it draws.
    """

    def __init__(self, lessons: Lessons, blend: Blend, key: str, sampler: CatalogSampler | None) -> None:
        self.key = key
        self._lessons, self._blend, self._sampler = lessons, blend, sampler

    def __call__(self, model: SequenceModel, inputs: Inputs, wanted: Wanted, rng: np.random.Generator) -> Tensor:
        """As `BatchLoss`; `rng` draws the negatives."""
        targets = wanted.targets.flatten()
        chosen = targets.nonzero().squeeze(1)
        hidden, targets = model.forward(inputs).flatten(0, 1)[chosen], targets[chosen]
        soft = self._lessons.at(wanted.places.flatten()[chosen])
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            if self._sampler is None:
                return soft_softmax(hidden, model.item_vectors().float(), targets, soft, self._blend)
            assert isinstance(soft, Listed)  # noqa: S101
            return self._sampled(model, hidden, targets, soft, rng)

    def _sampled(
        self, model: SequenceModel, hidden: Tensor, targets: Tensor, soft: Listed, rng: np.random.Generator
    ) -> Tensor:
        """The model is asked for the rows that are compared."""
        assert self._sampler is not None  # noqa: S101
        negatives = self._sampler.draw(targets, rng)
        sizes = [len(targets), len(negatives.rows), soft.rows.numel()]
        rows, places = torch.unique(torch.cat([targets, negatives.rows, soft.rows.flatten()]), return_inverse=True)
        targets, drawn, listed = places.split(sizes)
        soft, negatives = soft._replace(rows=listed.view(soft.rows.shape)), negatives._replace(rows=drawn)
        items = model.item_vectors(rows).float()
        return soft_sampled_softmax(hidden, items, targets, soft, negatives, self._blend)
