"""Rows for a second stage: what a retrieval found when it was asked, and which of it was taken next.

A ranker that is to order the candidates of a retrieval must learn from such candidates: to it the events of a log say
little, since all of them were taken. Covington et al., "Deep Neural Networks for YouTube Recommendations", RecSys 2016.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from millirec.data.dataset import TEST, TRAIN, VALIDATION, Dataset
from millirec.data.errors import ArtifactError, ConfigError, DataError
from millirec.data.features import (
    Featuriser,
    FieldConfig,
    Keys,
    Needs,
    Questions,
    RankingRows,
    known_events,
    replayed,
)
from millirec.data.labels import LabelConfig, labels_of
from millirec.data.split import Targets
from millirec.models.base import SequenceModel, catalog_scorer
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import max_length
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.train.evaluate import hide_seen, known_scores, questions, sample_targets


class CandidateConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which rows are made.

    `targets`: events of a part that are asked for, drawn at random (0 = all). `candidates`: what the
    retrieval finds for each. `negatives`: how many of those that were not taken become rows, drawn at random.
    `held_out`: the newest share of the targets, which decides when to stop.
    """

    targets: int = 20_000
    candidates: int = 200
    negatives: int = 20
    held_out: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("targets", 0), ("candidates", 2), ("negatives", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"$.candidates.{name} = {getattr(self, name)}", f"choose {least} or more")
        if not 0 < self.held_out < 1:
            raise ConfigError(f"$.candidates.held_out = {self.held_out:g}", "choose a share between 0 and 1")


@dataclass(frozen=True)
class Found:
    """What a retrieval found for `asked`: `rows` int32 (t, n) and `scores` float32 (t, n), best first, unseen items."""

    asked: Targets
    rows: NDArray[np.int32]
    scores: NDArray[np.float32]


def check_retrieval(checkpoint: Checkpoint, dataset: Dataset, what: str) -> None:
    """Raises ArtifactError, which names `what`, for a model of other data or another split: it could have learned from
    what it is asked for.
    """
    known, own = checkpoint.provenance, (dataset.fingerprint, dataset.protocol)
    if (known.fingerprint, known.protocol) != own:
        other = "data" if known.fingerprint != own[0] else f"split ({known.protocol})"
        raise ArtifactError(
            f"{what}: the model was trained with other {other} than the ranker ({own[1]})",
            'train both on the same [data] with the same [split] kind = "global-time"',
        )


def found_for(checkpoint: Checkpoint, dataset: Dataset, config: CandidateConfig, *, test: bool = False) -> Found:
    """Ask a sequence model for the targets of the validation part, which it has not learned from.

    `test`: and then for those of the test part, to measure. A model that recommends again what was seen is asked for
    that as well. Raises ConfigError for a model without user vectors, ArtifactError when its catalogue is another.
    """
    network, n = checkpoint.network(), min(config.candidates, len(dataset.items))
    if not isinstance(network, SequenceModel):
        raise ConfigError("this model has no user vectors", "use a sequence model, such as sasrec")
    if checkpoint.catalog.vocabulary.ids != dataset.items.vocabulary.ids:
        raise ArtifactError("the model has another catalogue than the data", "use the data that it was trained on")
    repeats = any(step.settings.get("repeats") is True for step in checkpoint.lineage)
    parts = (VALIDATION, TEST) if test else (VALIDATION,)
    asked = _joined(
        [sample_targets(dataset, part, config.targets, repeats=repeats, seed=config.seed) for part in parts]
    )
    rows, scores = np.zeros((len(asked), n), np.int32), np.zeros((len(asked), n), np.float32)
    seq = dataset.sequences
    with torch.inference_mode():
        scorer = catalog_scorer(network)
        for which, inputs in questions(dataset, asked, max_length(checkpoint.config), torch.device("cpu")):
            every = known_scores(scorer, inputs)
            if not repeats:
                hide_seen(every, seq.items, asked.places[which], asked.starts[which])
            best = every.topk(n, dim=1)
            rows[which], scores[which] = best.indices.int().numpy(), best.values.numpy()
    return Found(asked, rows, scores)


def _joined(parts: list[Targets]) -> Targets:
    places, starts = (np.concatenate([getattr(part, name) for part in parts]) for name in ("places", "starts"))
    return Targets(places, starts, sum(part.n_repeats for part in parts), sum(part.n_cold for part in parts))


def retrieval_of(checkpoint: RankerCheckpoint) -> str | None:
    """The content hash of the model whose candidates a ranker has learned from, where its lineage tells it."""
    found = (step.settings["retrieval"] for step in checkpoint.lineage if "retrieval" in step.settings)
    return next(found, None)


def candidates_of(checkpoint: RankerCheckpoint) -> CandidateConfig | None:
    """Of which candidates a ranker has learned, from its lineage; None = of the rows of a log."""
    for step in checkpoint.lineage:
        if "candidates" in step.settings:
            return msgspec.convert(step.settings["candidates"], CandidateConfig)
    return None


def candidate_rows(
    dataset: Dataset,
    label: LabelConfig,
    found: Found,
    fields: Iterable[FieldConfig] | Featuriser,
    config: CandidateConfig,
) -> tuple[RankingRows, Featuriser]:
    """A row for what was taken next, where the retrieval had found it, and for some of what was not.

    Each row knows the events before its target's millisecond, as a server would, and the context of its target;
    `context.retrieval_score` and `context.retrieval_rank` tell what the retrieval said. `label` says what features
    count as a success; the label of a row is whether the item was taken. Features are learned from the training rows,
    or given. Rows of targets of the test part are its rows.

    Raises DataError when the retrieval found none of what was taken.
    """
    given = fields if isinstance(fields, Featuriser) else None
    fields = given.fields if given else tuple(fields)  # type: ignore[arg-type]
    places = found.asked.places
    seq = dataset.sequences
    which, at = _chosen(found.rows == seq.items[places][:, None], found.scores, config)
    if not len(which):
        raise DataError("the retrieval found none of the items that were taken", "ask for more targets or candidates")
    rows, target = found.rows[which, at], places[which]
    context = {name: column[seq.order[target]] for name, column in dataset.interactions.context.items()}
    context |= {"retrieval_score": found.scores[which, at].astype(np.float64), "retrieval_rank": at + 1.0}
    asked = Questions(seq.users[target].astype(np.int64), rows.astype(np.int64), seq.times[target], context)
    keys = Keys(dataset.users, dataset.items)
    keys.check(fields)
    is_test = seq.roles[target] == TEST
    known = known_events(dataset, labels_of(dataset, label), test=bool(is_test.any()))
    facts = replayed(known, asked, Needs.of(fields), keys)
    taken = (rows == seq.items[target]).astype(np.int8)
    roles = np.where(is_test, TEST, VALIDATION).astype(np.uint8)
    roles[~is_test & (asked.now < np.quantile(asked.now[~is_test], 1 - config.held_out))] = TRAIN
    train = roles == TRAIN
    featuriser = given or Featuriser.fit(fields, facts.take(train), taken[train], dataset.users, dataset.items)
    users = asked.users.astype(np.int32)
    return RankingRows(featuriser.features(facts), taken, roles, users, seq.order[target]), featuriser


def _chosen(
    taken: NDArray[np.bool_], scores: NDArray[np.float32], config: CandidateConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lists that hold the target, and the places in them that become rows: the target's, and some others'."""
    rng = np.random.default_rng([config.seed, 31])
    lists = np.flatnonzero(taken.any(axis=1))
    order = rng.random((len(lists), taken.shape[1]))
    order[taken[lists]] = -1  # the target first
    order[~np.isfinite(scores[lists])] = 2  # a short list ends before
    kept = np.sort(order, axis=1)[:, : config.negatives + 1] < 2
    places = np.argsort(order, axis=1)[:, : config.negatives + 1]
    return np.repeat(lists, kept.sum(axis=1)), places[kept]
