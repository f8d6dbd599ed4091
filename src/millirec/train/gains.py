"""Fitted gains: how much the counts beside a network add to its scores.

The score of an item is s + sum over tables of weight x log(1 + votes / floor). Its softmax at a temperature is a
log-linear pool (Genest and Zidek, Statistical Science 1986) of the network and of what was counted; weights, floors and
temperature are those under which the validation targets are likeliest, with a broad prior around usual values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from millirec.data.dataset import VALIDATION, Dataset
from millirec.data.errors import DataError
from millirec.models.base import SequenceModel
from millirec.models.counts import Gain, VoteTable
from millirec.train.evaluate import ndcg_at_10, sample_targets, scored

_NUMBERS, _FEWEST = 50_000_000, 200  # scores held at once, and the fewest targets that gains are fitted to
_RANKED, _LIST = 10_000, 10  # targets that are ranked at least, where there are so many, and the lists that matter
_START, _PRIOR = (0.5, 0.3, 0.02), 0.5  # temperature^-1, weight and floor to begin with; precision of their logarithms
_NEVER = -1e30  # the score of what cannot be the answer: -inf has no derivative
_NEAREST, _FARTHEST, _MOST = -30.0, 13.0, 75.0  # logarithms, and the largest gain: nothing over- or underflows
_USELESS, _HIGHEST = 1e-3, 1e4  # weights that change no order, and that leave the network none in 32 bits


class Fitted(NamedTuple):
    """A gain for each table, None where it adds nothing or NDCG@10 is higher without it.

    `before` and `after`: NDCG@10 of `n_targets` validation targets without and with them. With large catalogues they
    were fitted to some of these.
    """

    gains: tuple[Gain | None, ...]
    before: float
    after: float
    n_targets: int


@dataclass(frozen=True, slots=True)
class _Asked:
    """Validation targets (t,), and what the network and the tables say of them; `_NEVER` is no score at all.

    `top` (t, 11): the network's best scores, enough to tell NDCG@10. `own_scores` (t,): its scores of the targets.
    `at_rows` (t, m): its scores of the items with votes, `is_own` bool (t, m) where such an item is the target, and
    `votes` (K, t, m) what each table gives them. `scores` (f, n): of the targets `fit` int64 (f,) those of all items.
    """

    top: Tensor
    own_scores: Tensor
    at_rows: Tensor
    is_own: Tensor
    votes: Tensor
    scores: Tensor
    fit: Tensor


def fitted_gains(
    network: SequenceModel, length: int, tables: Sequence[VoteTable], dataset: Dataset, *, repeats: bool
) -> Fitted:
    """Gains of `tables` beside a network that reads `length` events.

    Raises DataError when there are no validation targets.
    """
    asked = _asked(network, length, tables, dataset, repeats=repeats)
    found = _selected(asked)
    return Fitted(found.gains, ndcg_at_10(_ranks(asked, [None] * len(tables))), found.ndcg, len(asked.top))


class _Fit(NamedTuple):
    """The likeliest numbers of the tables `kept`, a gain for each table, None of all others, and NDCG@10 with them."""

    kept: tuple[int, ...]
    logs: Tensor
    gains: tuple[Gain | None, ...]
    ndcg: float

    def without(self, table: int) -> tuple[tuple[int, ...], Tensor]:
        """The other tables, and where their numbers may be looked for."""
        left = [place for place, one in enumerate(self.kept) if one != table]
        weights, floors = self.logs[1:].view(2, -1)[:, left]
        return tuple(self.kept[place] for place in left), torch.cat([self.logs[:1], weights, floors])


def _selected(asked: _Asked) -> _Fit:
    """The likeliest gains, without the tables, one by one, that NDCG@10 is higher without."""
    n_tables = len(asked.votes)
    best = _fit(asked, tuple(range(n_tables)), _prior(n_tables))
    while best.kept:
        fewer = max((_fit(asked, *best.without(table)) for table in best.kept), key=lambda fit: fit.ndcg)
        if fewer.ndcg <= best.ndcg:
            break
        best = fewer
    return best


def _fit(asked: _Asked, kept: tuple[int, ...], begin: Tensor) -> _Fit:
    """The fit of these tables; the search begins at `begin`."""
    gains: list[Gain | None] = [None] * len(asked.votes)
    if kept:
        begin = _likeliest(replace(asked, votes=asked.votes[list(kept)]), begin)
        scale, weights, floors = begin[0].exp(), *begin[1:].exp().view(2, -1)
        for place, weight, floor in zip(kept, (weights / scale).tolist(), floors.tolist(), strict=True):
            if weight >= _USELESS:
                rounded = float(f"{min(weight, _HIGHEST):.4g}"), float(f"{floor:.4g}")
                gains[place] = Gain(weight=rounded[0], floor=rounded[1])
    return _Fit(kept, begin, tuple(gains), ndcg_at_10(_ranks(asked, gains)))


def _prior(n_tables: int) -> Tensor:
    """The usual logarithms of 1 / temperature, of the weights and of the floors."""
    return torch.tensor([_START[0], *[_START[1]] * n_tables, *[_START[2]] * n_tables]).log()


def _asked(
    network: SequenceModel, length: int, tables: Sequence[VoteTable], dataset: Dataset, *, repeats: bool
) -> _Asked:
    n_fit = max(_FEWEST, _NUMBERS // (len(dataset.items) + 1))
    targets = sample_targets(dataset, VALIDATION, max(n_fit, _RANKED), repeats=repeats, seed=0)
    if not len(targets):
        raise DataError("there are no validation targets that gains could be fitted to", "use a split that has some")
    is_fit = np.random.default_rng(0).permutation(len(targets)) < n_fit
    seq, parts, order = dataset.sequences, [], []
    for which, scores, wanted in scored(network, dataset, targets, length, keep_seen=repeats):
        scores.clamp_min_(_NEVER)
        spans = zip(targets.starts[which].tolist(), targets.places[which].tolist(), strict=True)
        rows, votes = _voted([seq.items[start:place] for start, place in spans], tables)
        own, target = scores.gather(1, wanted[:, None]), wanted[:, None]
        top = scores.topk(min(_LIST + 1, scores.shape[1])).values
        parts.append((top, own[:, 0], scores.gather(1, rows), rows == target, votes, scores[is_fit[which]]))
        order.append(which)
    fit = torch.from_numpy(np.flatnonzero(is_fit[np.concatenate(order)]))
    top, own_scores, at_rows, is_own, all_votes, full = (_joined(column) for column in zip(*parts, strict=True))
    return _Asked(top, own_scores, at_rows, is_own, all_votes, full, fit)


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    """Batches (..., b, m) one below the other, each as wide as the widest: zeros are no votes."""
    if parts[0].ndim == 1:
        return torch.cat(parts).clone()  # out of inference mode
    width = max(part.shape[-1] for part in parts)
    padded = [torch.nn.functional.pad(part, (0, width - part.shape[-1])) for part in parts]
    return torch.cat(padded, -2).clone()


def _voted(histories: Sequence[NDArray[np.int32]], tables: Sequence[VoteTable]) -> tuple[Tensor, Tensor]:
    """The items with votes after each history, int64 (t, m), and their votes (K, t, m)."""
    found = [[table.votes(history) for table in tables] for history in histories]
    unions = [np.unique(np.concatenate([rows for rows, _ in one])) for one in found]
    width = max([1, *(len(union) for union in unions)])
    rows = np.zeros((len(histories), width), np.int64)
    votes = np.zeros((len(tables), len(histories), width), np.float32)
    for place, (one, union) in enumerate(zip(found, unions, strict=True)):
        rows[place, : len(union)] = union
        for number, (own, counted) in enumerate(one):
            votes[number, place, np.searchsorted(union, own)] = counted
    return torch.from_numpy(rows), torch.from_numpy(votes)


def _likeliest(asked: _Asked, begin: Tensor) -> Tensor:
    """Logarithms of 1 / temperature, of the weights (K,) and of the floors (K,), by L-BFGS."""
    n_tables = len(asked.votes)
    start = _prior(n_tables)
    logs = begin.clone().requires_grad_()
    search = torch.optim.LBFGS([logs], max_iter=50, line_search_fn="strong_wolfe")
    at_rows, is_own, own_scores = (part[asked.fit] for part in (asked.at_rows, asked.is_own, asked.own_scores))
    votes = asked.votes[:, asked.fit]
    own_votes = (votes * is_own).sum(2)

    def loss() -> Tensor:
        search.zero_grad()
        numbers = logs.clamp(_NEAREST, _FARTHEST).exp()  # a search that goes too far comes back
        scale, weights, floors = numbers[0], *numbers[1:].view(2, n_tables, 1)
        whole = _LogSum.apply(asked.scores, scale)  # type: ignore[no-untyped-call]
        raised = (weights[:, :, None] * (votes / floors[:, :, None]).log1p()).sum(0)
        more = (torch.expm1(raised.clamp(max=_MOST)) * (at_rows * scale - whole[:, None]).exp()).sum(1)
        own = own_scores * scale + (weights * (own_votes / floors).log1p()).sum(0).clamp(max=_MOST)
        value: Tensor = (whole + more.log1p() - own).mean()
        value = value + _PRIOR / (2 * len(own)) * (logs - start).square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    search.step(loss)  # type: ignore[no-untyped-call]
    return logs.detach().clamp(_NEAREST, _FARTHEST)  # what was measured is what is kept


class _LogSum(torch.autograd.Function):
    """log of the sum over items of exp(scale x score), (t,), with its derivative by `scale`: no array is kept."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, scores: Tensor, scale: Tensor) -> Tensor:
        chances = scores * scale
        whole = chances.logsumexp(1)
        chances.sub_(whole[:, None]).exp_()
        mean = (chances * scores).sum(1)
        ctx.save_for_backward(mean)
        return whole

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[None, Tensor]:
        (mean,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return None, (grads[0] * mean).sum()


def _ranks(asked: _Asked, gains: Sequence[Gain | None]) -> NDArray[np.int64]:
    """The ranks of the targets, exact up to 10; ties count against them."""
    raised = torch.zeros_like(asked.at_rows)
    for votes, gain in zip(asked.votes, gains, strict=True):
        if gain is not None:
            raised += gain.weight * (votes / gain.floor).log1p()
    own = (asked.own_scores + (raised * asked.is_own).sum(1))[:, None]  # to the last bit as its own row
    more = (asked.at_rows + raised >= own).sum(1) - (asked.at_rows >= own).sum(1)  # what passes it by its votes
    ranks: NDArray[np.int64] = ((asked.top >= own).sum(1) + more).numpy()
    return ranks
