"""Evaluation of a model on held-out events: the whole catalogue is ranked, never a sample."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from millirec.data.audit import Leak, audit
from millirec.data.dataset import Dataset
from millirec.data.encode import encode
from millirec.data.errors import ArtifactError, DataError
from millirec.data.split import Targets, targets
from millirec.metrics.summary import Figure, summarise
from millirec.models.base import Inputs, Ranker, SequenceModel, catalog_scorer
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import max_length
from millirec.models.popularity import Popularity, PopularityConfig

# Bounds on one batch: places in the padded histories, and scores of the catalogue; but a few questions at least share
# the reading of item vectors that fit in no cache.
_CELLS, _SCORES, _FEW = 1 << 15, 1 << 22, 16


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where each target came out.

    `ranks` int64 (t,): 1 = first; ties count against the model; a NaN score is last. `top` int32 (t, K): the
    best K rows as a user would see them. `users` int32 (t,): whose target it is.
    """

    ranks: NDArray[np.int64]
    top: NDArray[np.int32]
    users: NDArray[np.int32]
    n_repeats: int = 0
    n_cold: int = 0


def rank_targets(
    model: SequenceModel | Ranker,
    dataset: Dataset,
    asked: Targets,
    length: int,
    *,
    keep_seen: bool = False,
    lists: int = 100,
) -> Ranks:
    """Rank the whole catalogue for every target, given all that its user did before, at the time of the target.

    Items already seen are left out unless `keep_seen`. The best `lists` rows are kept in `top`; 0 saves their time.
    """
    seq = dataset.sequences
    n_items = len(dataset.items)
    k = min(lists, n_items)
    ranks = np.zeros(len(asked), np.int64)
    top = np.zeros((len(asked), k), np.int32)
    for which, scores, target in scored(model, dataset, asked, length, keep_seen=keep_seen):
        ranks[which] = _rank(scores, target).cpu().numpy()
        if k:
            top[which] = scores.topk(k, dim=1).indices.int().cpu().numpy()
    return Ranks(ranks, top, seq.users[asked.places], asked.n_repeats, asked.n_cold)


def scored(
    model: SequenceModel | Ranker, dataset: Dataset, asked: Targets, length: int, *, keep_seen: bool
) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
    """Of each batch: which of the targets, int64 (b,), scores of the catalogue (b, n_items + 1), their rows int64 (b,).

    -inf is the score of what cannot be the answer: padding, what is no number, and seen items unless `keep_seen`.
    """
    seq = dataset.sequences
    device = next(iter(_tensors(model)), torch.empty(0)).device
    with torch.inference_mode():
        scorer = catalog_scorer(model)
        for which, inputs in questions(dataset, asked, length, device):
            places, starts = asked.places[which], asked.starts[which]
            scores = known_scores(scorer, inputs)
            if not keep_seen:
                hide_seen(scores, seq.items, places, starts)
            yield which, scores, torch.from_numpy(seq.items[places].astype(np.int64)).to(device)


def questions(
    dataset: Dataset, asked: Targets, length: int, device: torch.device
) -> Iterator[tuple[NDArray[np.int64], Inputs]]:
    """Which of the targets, int64 (b,), and what a model is given to find them, batch by batch.

    Given are the newest `length` events before a target, and the time at which it comes.
    """
    seq = dataset.sequences
    for which in _batches(asked, length, len(dataset.items)):
        places, starts = asked.places[which], asked.starts[which]
        spans = [slice(max(start, place - length), place) for start, place in zip(starts, places, strict=True)]
        items, times = [seq.items[span] for span in spans], [seq.times[span] for span in spans]
        yield which, Inputs.of(encode(items, times, length, now=seq.times[places]), device)


def sample_targets(dataset: Dataset, role: int, limit: int, *, repeats: bool, seed: int) -> Targets:
    """The targets of a part, or `limit` of them drawn at random (0 = all)."""
    asked = targets(dataset, role, repeats=repeats)
    if not limit or len(asked) <= limit:
        return asked
    kept = np.sort(np.random.default_rng([seed, 7]).choice(len(asked), limit, replace=False))
    return Targets(asked.places[kept], asked.starts[kept], asked.n_repeats, asked.n_cold)


def ndcg_at_10(ranks: NDArray[np.int64]) -> float:
    """The mean NDCG@10 of single targets: what training watches."""
    return float(np.where(ranks <= 10, 1 / np.log2(ranks + 1.0), 0).mean()) if len(ranks) else 0.0


def _tensors(model: object) -> Iterator[Tensor]:
    if isinstance(model, torch.nn.Module):
        yield from model.parameters()
        yield from model.buffers()


def _batches(asked: Targets, length: int, n_items: int) -> Iterator[NDArray[np.int64]]:
    """Targets with histories of like length together."""
    lengths = np.minimum(asked.places - asked.starts, length)
    order = np.argsort(lengths, kind="stable")
    at = 0
    while at < len(order):
        # Lengths ascend, so the last row of a batch is the widest: find how many fit under the bound.
        ahead = lengths[order[at : at + 1024]]
        fit = int(np.searchsorted(ahead * np.arange(1, len(ahead) + 1), _CELLS))
        size = max(1, min(fit, max(_SCORES // (n_items + 1), _FEW), 1024))
        yield order[at : at + size]
        at += size


def known_scores(scorer: Callable[[Inputs], Tensor], inputs: Inputs) -> Tensor:
    """Scores of the catalogue, (B, n_items + 1); padding, and what is no number, are last."""
    scores = scorer(inputs).float().clone()
    scores[:, 0] = -torch.inf
    return scores.nan_to_num_(nan=-torch.inf, posinf=None, neginf=-torch.inf)


def hide_seen(scores: Tensor, items: NDArray[np.int32], places: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
    """Put the items of each user's history last."""
    counts = places - starts
    rows = np.repeat(np.arange(len(places)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    seen = items[np.repeat(starts, counts) + within].astype(np.int64)
    scores[torch.from_numpy(rows), torch.from_numpy(seen)] = -torch.inf


def _rank(scores: Tensor, target: Tensor) -> Tensor:
    """`metrics.ranking.rank_of_target` on the device, row 0 (padding) left out: NaN is -inf here already."""
    return (scores[:, 1:] >= scores.gather(1, target[:, None])).sum(1)


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one model under one protocol, those of popularity beside them, and what leaks.

    `n_users`: who was asked; the intervals draw users. `n_repeats` and `n_cold` are events of the part that were no
    targets: items the user had already seen, and events with nothing before them. `popularity` is the model that
    ranks by training events, on the same targets. `leaks`: what `data.audit` says of the split, [] = nothing.
    """

    protocol: str
    n_targets: int
    n_users: int
    n_repeats: int
    n_cold: int
    keep_seen: bool
    figures: dict[str, Figure]
    popularity: dict[str, Figure]
    leaks: list[Leak]


def evaluate(checkpoint: Checkpoint, dataset: Dataset, role: int, *, repeats: bool = False) -> Evaluation:
    """All figures of a checkpoint on one part of a split data set, the whole catalogue ranked.

    With `repeats`, items already seen may be recommended and are targets too (sessions).
    """
    asked = targets(dataset, role, repeats=repeats)
    ranks = rank_checkpoint(checkpoint, dataset, asked, repeats=repeats)
    return summarised(ranks, dataset, asked, checkpoint.popularity, repeats=repeats)


def rank_checkpoint(checkpoint: Checkpoint, dataset: Dataset, asked: Targets, *, repeats: bool) -> Ranks:
    """`rank_targets` with the network of a checkpoint. Raises ArtifactError when its catalogue is another."""
    if checkpoint.catalog.vocabulary.ids != dataset.items.vocabulary.ids:
        raise ArtifactError(
            f"the checkpoint knows {len(checkpoint.catalog)} items, the data has {len(dataset.items)} or others",
            "evaluate on the data that it was trained on, or train again",
        )
    network = checkpoint.network()
    return rank_targets(network, dataset, asked, max_length(checkpoint.config), keep_seen=repeats)  # type: ignore[arg-type]


def rank_popularity(counts: NDArray[np.int64], dataset: Dataset, asked: Targets, *, repeats: bool) -> Ranks:
    """`rank_targets` by the training events (n_items + 1,) of each item: what every figure is to be held against."""
    network = Popularity(PopularityConfig(), len(counts) - 1)
    network.counts = torch.from_numpy(counts).float()
    return rank_targets(network, dataset, asked, 1, keep_seen=repeats)


def summarised(
    ranks: Ranks, dataset: Dataset, asked: Targets, popularity: NDArray[np.int64], *, repeats: bool
) -> Evaluation:
    """The figures of ranks that were measured, by whatever means, in the order of `asked`.

    Raises DataError when nothing is asked.
    """
    if not len(asked):
        raise DataError(f"no targets under {dataset.protocol}", "measure another part, or split the data otherwise")
    baseline = rank_popularity(popularity, dataset, asked, repeats=repeats)
    return Evaluation(
        protocol=dataset.protocol,
        n_targets=len(asked),
        n_users=len(np.unique(ranks.users)),
        n_repeats=asked.n_repeats,
        n_cold=asked.n_cold,
        keep_seen=repeats,
        figures=summarise(ranks.ranks, ranks.top, popularity, ranks.users),
        popularity=summarise(baseline.ranks, baseline.top, popularity, baseline.users),
        leaks=audit(dataset, repeats=repeats),
    )
