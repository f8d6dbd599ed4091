"""Zeros among the weights of a network: which weights may be zero, which are to be, and how they stay so."""

from collections.abc import Callable, Collection, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from millirec.models.layers.table import HashedTable, LowRankTable

Kind = Literal["linear", "embedding"]

_DEAD = -1.0  # score of a weight that is zero already: it goes first


def prunable(network: nn.Module, include: Collection[Kind] = ("linear", "embedding")) -> dict[str, nn.Parameter]:
    """The weights (2-dimensional) that may be zero, by name.

    "linear": of linear and recurrent layers, along (out, in); "embedding": of everything that is looked up by a
    number: items, positions, gaps, along (rows, d).
    """
    found = {}
    for name, module in network.named_modules():
        kind = _kind(module)
        if kind in include:
            for own, parameter in module.named_parameters(recurse=False):
                if parameter.dim() == 2:
                    found[f"{name}.{own}" if name else own] = parameter
    return found


def _kind(module: nn.Module) -> Kind | None:
    if isinstance(module, nn.Linear | nn.RNNBase):
        return "linear"
    return "embedding" if isinstance(module, nn.Embedding | LowRankTable | HashedTable) else None


def keep_zeros(network: nn.Module) -> None:
    """Weights that are zero now get no gradient from now on: they stay zero, and so do their averages.

    Call it when the network is on its device.
    """
    for parameter in prunable(network).values():
        zero = parameter.detach() == 0
        if zero.any():
            parameter.register_hook(_without(zero))  # type: ignore[no-untyped-call]


def _without(zero: Tensor) -> Callable[[Tensor], Tensor]:
    def hook(gradient: Tensor) -> Tensor:
        if not gradient.is_sparse:
            return gradient.masked_fill(zero, 0.0)
        gradient = gradient.coalesce()
        rows = gradient.indices()
        values = gradient.values().masked_fill(zero[rows[0]], 0.0)
        return torch.sparse_coo_tensor(rows, values, gradient.shape, check_invariants=False, is_coalesced=True)

    return hook


def alive(scores: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The scores, below all others where a weight is zero already."""
    return {name: torch.where(weights[name] == 0, _DEAD, score) for name, score in scores.items()}


def least(scores: Tensor, count: int) -> Tensor:
    """Where the `count` lowest scores stand, bool like `scores`; among equal ones the first."""
    drop = torch.zeros(scores.numel(), dtype=torch.bool)
    if count:
        flat = scores.flatten()
        limit = flat.kthvalue(count).values
        drop = flat < limit
        equal = (flat == limit).nonzero().squeeze(1)
        drop[equal[: count - int(drop.sum())]] = True
    return drop.view(scores.shape)


def least_of_all(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """As `least`, over several parameters together."""
    drop = least(torch.cat([score.flatten() for score in scores.values()]), count)
    parts = drop.split([score.numel() for score in scores.values()])  # type: ignore[no-untyped-call]
    return {name: part.view(scores[name].shape) for name, part in zip(scores, parts, strict=True)}


def least_of_groups(scores: Tensor, size: int, count: int) -> Tensor:
    """Where the `count` lowest scores of each `size` neighbours along the second axis stand, bool (out, in)."""
    grouped = scores.view(len(scores), -1, size)
    order = grouped.argsort(dim=2, stable=True)[:, :, :count]
    return torch.zeros_like(grouped, dtype=torch.bool).scatter_(2, order, True).view(scores.shape)
