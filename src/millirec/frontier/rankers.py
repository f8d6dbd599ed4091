"""`Rankers`: the second stages of a frontier's variants, made smaller and ready to be packed."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from millirec.bundle import Bundle, RankerPart
from millirec.compress.rankers.base import RankerWorkshop
from millirec.compress.rankers.recipe import RankerRecipe, compress_ranker
from millirec.compress.workshop import Workshop
from millirec.data.dataset import CONTEXT, TEST, VALIDATION, Dataset
from millirec.data.features import Events, known_events
from millirec.data.features.rows import is_row
from millirec.data.labels import LabelConfig, labels_of
from millirec.data.lineage import Step
from millirec.frontier.config import Variant, VariantRanker
from millirec.frontier.kernels import kernels
from millirec.models.checkpoint import Checkpoint
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.train.candidates import candidates_of


class MadeRanker(msgspec.Struct, frozen=True, kw_only=True):
    """The ranker of a packed variant.

    `checkpoint`: the content hash of what was packed. `metrics`: `auc` and `log_loss` of its validation rows, and how
    it was trained. `weights`: in which numbers its hidden layers compute. `zeros`, `parameters`, `kernels` as of the
    sequence model. `pre_ranker`: the config of what chooses its candidates.
    """

    checkpoint: str
    model: dict[str, Any]
    lineage: tuple[Step, ...]
    metrics: dict[str, float]
    weights: str
    zeros: float
    parameters: int
    kernels: dict[str, int]
    pre_ranker: dict[str, Any] | None = None


def named(ranker: VariantRanker | bool, default: str | None) -> VariantRanker | None:
    """What a variant says of its ranker, the frontier's filled in; None = retrieval alone."""
    if ranker is False or (ranker is True and default is None):
        return None
    own = VariantRanker() if ranker is True else ranker
    return msgspec.structs.replace(own, checkpoint=own.checkpoint or default)


class Rankers:
    """Loads each ranker once, follows its recipe, and finds what its features know at first.

    `default`: the frontier's ranker. `retrieval` is asked for candidates where a ranker has learned from such. `part`:
    whose events are asked for; features know what is older than the first of them, so that no answer looks ahead.
    """

    def __init__(self, default: str | None, retrieval: Checkpoint, workshop: Workshop, part: str) -> None:
        self._default, self._retrieval, self._workshop = default, retrieval, workshop
        self._role = TEST if part == "test" else VALIDATION
        self._loaded: dict[str, RankerCheckpoint] = {}
        self._shops: dict[str, RankerWorkshop] = {}
        self._known: dict[bytes, tuple[Events, str]] = {}

    def has(self, variant: Variant) -> bool:
        """Whether a variant has a second stage."""
        return named(variant.ranker, self._default) is not None

    def key(self, variant: Variant) -> tuple[object, ...]:
        """All that decides the ranker of a variant; nothing where it has none."""
        use = named(variant.ranker, self._default)
        if use is None:
            return ()
        start = self._start(use)
        _, known = self._events(start.label)
        about: tuple[object, ...] = (*_identity(start), use.steps, use.weights, known)
        if use.pre_ranker is not None:
            pre = self._load(use.pre_ranker)
            about += (*_identity(pre), self._events(pre.label)[1])
        if not use.steps:
            return about
        machine = self._workshop.machine
        return (*about, self._retrieval.content_hash, self._workshop.dataset.split_fingerprint, machine.seed)

    def make(self, variant: Variant) -> tuple[RankerPart, float] | None:
        """The ranker to be packed, and the seconds that its recipe took. None = no ranker.

        Raises ConfigError when a step cannot follow.
        """
        use = named(variant.ranker, self._default)
        if use is None:
            return None
        made = start = self._start(use)
        if use.steps:
            recipe = RankerRecipe(steps=use.steps, name=variant.name)
            made = compress_ranker(start, recipe, self._shop(use))
        took = sum(step.seconds for step in made.lineage[len(start.lineage) :])
        pre = None
        if use.pre_ranker is not None:
            light = self._load(use.pre_ranker)
            pre = RankerPart(light, self._events(light.label)[0], use.weights)
        return RankerPart(made, self._events(start.label)[0], use.weights, pre), took

    def _start(self, use: VariantRanker) -> RankerCheckpoint:
        return self._load(str(use.checkpoint))

    def _load(self, where: str) -> RankerCheckpoint:
        if where not in self._loaded:
            self._loaded[where] = RankerCheckpoint.load(Path(where))
        return self._loaded[where]

    def _shop(self, use: VariantRanker) -> RankerWorkshop:
        """One for each ranker, so that its rows are made once."""
        where, start, given = str(use.checkpoint), self._start(use), self._workshop
        if where not in self._shops:
            dataset = given.dataset if candidates_of(start) else by_rows(given.dataset, start.label)
            self._shops[where] = RankerWorkshop(
                read=lambda: dataset,
                machine=given.machine,
                journal=given.journal,
                retrieval=self._retrieval,
                folder=given.folder,
            )
        return self._shops[where]

    def _events(self, label: LabelConfig) -> tuple[Events, str]:
        """What features know at first, and a hash of it."""
        key = msgspec.json.encode(label)
        if key not in self._known:
            dataset, digest = self._workshop.dataset, hashlib.sha256()
            known = known_events(dataset, labels_of(dataset, label))
            first = dataset.interactions.times[dataset.roles == self._role].min()
            known = known.take(known.times < first)
            for column in (known.users, known.items, known.times, known.labels):
                digest.update(np.ascontiguousarray(column).tobytes())
            self._known[key] = known, digest.hexdigest()
        return self._known[key]


def _identity(ranker: RankerCheckpoint) -> tuple[object, ...]:
    return ranker.content_hash, ranker.lineage, ranker.provenance


def by_rows(dataset: Dataset, label: LabelConfig) -> Dataset:
    """The data of a sequence model as `split_rows` would have split it: what has no label is history only."""
    roles = dataset.roles.copy()
    roles[~is_row(dataset, labels_of(dataset, label))] = CONTEXT
    return dataset.with_roles(roles, dataset.protocol)


def described(part: RankerPart, bundle: Bundle) -> MadeRanker:
    """What is told of a ranker that was packed."""
    checkpoint, packed = part.checkpoint, bundle.ranker
    zeros, parameters = zeros_among(checkpoint.parameters.values())
    return MadeRanker(
        checkpoint=checkpoint.content_hash,
        model=msgspec.to_builtins(checkpoint.config),
        lineage=checkpoint.lineage,
        metrics=checkpoint.metrics,
        weights=part.weights,
        zeros=zeros,
        parameters=parameters,
        kernels=kernels(() if packed is None else (packed.rows, packed.items)),
        pre_ranker=None if part.pre is None else msgspec.to_builtins(part.pre.checkpoint.config),
    )


def zeros_among(parameters: Iterable[Tensor]) -> tuple[float, int]:
    """The share of zeros among the floating-point parameters, and how many parameters there are of any kind."""
    parameters = tuple(parameters)
    floats = [tensor for tensor in parameters if tensor.is_floating_point()]
    n = sum(tensor.numel() for tensor in floats)
    zeros = sum(tensor.numel() - int(torch.count_nonzero(tensor)) for tensor in floats)
    return (round(zeros / n, 4) if n else 0.0), sum(tensor.numel() for tensor in parameters)
