"""Which numbers of a network belong together: what can be left out of it, and what remains of its parameters then.

A unit (a head, a neuron, a channel) owns places along the axes of several parameters; they go together or not at all.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from millirec.models.layers.table import Dense, Hashed, LowRank, TableConfig

BLOCKS = "blocks."  # what the names of a block's parameters begin with, before its number

Places = NDArray[np.int64]


class Slice(NamedTuple):
    """Where the units of a part stand along `axis` of the parameter `name`.

    `places` (units, k): those of each unit. `sends`: through these numbers a unit acts on the rest of the network.
    """

    name: str
    axis: int
    places: Places
    sends: bool = False


Group = tuple[Slice, ...]
"""Slices that lose the same units."""


class Part(NamedTuple):
    """Units of one kind, `units` in each group. Groups, such as the blocks, may keep different ones, but as many."""

    units: int
    groups: tuple[Group, ...]


class Structure(NamedTuple):
    """What can be left out of a network.

    `parts` by name. `blocks`: how many can be skipped, since each is added to its input; `outputs`: the parameters of
    a block that make what it adds; `alike`: a config says the same whichever blocks are kept. `scaled`: the item
    parameter, where the network multiplies item vectors by the root of their width.
    """

    parts: dict[str, Part] = {}  # noqa: RUF012 - never written to
    blocks: int = 0
    outputs: tuple[str, ...] = ()
    alike: bool = True
    scaled: str | None = None


class Kept(NamedTuple):
    """What stays: for each part and group the units in order, and the blocks in order."""

    units: Mapping[str, Sequence[Places]]
    blocks: Sequence[int]


def rows(name: str, units: int, *, repeats: int = 1, width: int = 1, sends: bool = False) -> Slice:
    """The first axis of a parameter, laid out [repeats, units, width]."""
    return Slice(name, 0, _places(units, repeats, width, 0), sends)


def columns(name: str, units: int, *, repeats: int = 1, width: int = 1, start: int = 0, sends: bool = False) -> Slice:
    """The second axis of a parameter, laid out [repeats, units, width] from place `start`."""
    return Slice(name, 1, _places(units, repeats, width, start), sends)


def outputs(name: str, units: int, *, repeats: int = 1, width: int = 1, sends: bool = False) -> Group:
    """What a linear layer with biases gives, or what a normalising layer scales: weights and biases."""
    return tuple(
        rows(f"{name}.{kind}", units, repeats=repeats, width=width, sends=sends) for kind in ("weight", "bias")
    )


def item_columns(table: TableConfig, width: int) -> Group:
    """Where the width of item vectors stands; nowhere, where it cannot be cut."""
    match table:
        case Dense():
            names: tuple[str, ...] = ("weight",)
        case LowRank():
            names = ("basis",)
        case Hashed(way="multi"):
            names = ("first",)
        case Hashed():
            names = ("first", "second")
        case _:
            names = ()
    return tuple(columns(f"item.{name}", width, sends=True) for name in names)


def with_width(parts: dict[str, Part], items: Group, *others: Group) -> dict[str, Part]:
    """`parts` and the part "width", where the item table can be cut: `items` with the first of the `others`."""
    if not items:
        return parts
    groups = ((*items, *others[0]), *others[1:])
    return parts | {"width": Part(len(items[0].places), groups)}


def cut(parameters: Mapping[str, Tensor], structure: Structure, kept: Kept) -> dict[str, Tensor]:
    """The parameters of the smaller network."""
    stays = _staying(parameters, structure, kept)
    numbers = {f"{BLOCKS}{old}.": f"{BLOCKS}{new}." for new, old in enumerate(kept.blocks)}
    out = {}
    for name, value in parameters.items():
        new = _renamed(name, numbers, structure)
        if new is None:
            continue
        for axis in range(value.dim()):
            if (name, axis) in stays:
                value = value.index_select(axis, torch.from_numpy(np.flatnonzero(stays[name, axis])))
        out[new] = value.clone()
    if structure.scaled is not None and "width" in kept.units:
        _rescale(out, structure, len(kept.units["width"][0]))
    return out


def _places(units: int, repeats: int, width: int, start: int) -> Places:
    grid = start + np.arange(repeats * units * width, dtype=np.int64).reshape(repeats, units, width)
    return grid.transpose(1, 0, 2).reshape(units, -1)


def _staying(
    parameters: Mapping[str, Tensor], structure: Structure, kept: Kept
) -> dict[tuple[str, int], NDArray[np.bool_]]:
    """By parameter and axis: which places stay."""
    stays: dict[tuple[str, int], NDArray[np.bool_]] = {}
    for part, choices in kept.units.items():
        for group, chosen in zip(structure.parts[part].groups, choices, strict=True):
            for piece in group:
                length = parameters[piece.name].shape[piece.axis]
                mask = stays.setdefault((piece.name, piece.axis), np.ones(length, np.bool_))
                mask[np.delete(piece.places, chosen, axis=0)] = False
    return stays


def _renamed(name: str, numbers: Mapping[str, str], structure: Structure) -> str | None:
    """The name in the smaller network, None where its block is left out."""
    if not structure.blocks or not name.startswith(BLOCKS):
        return name
    prefix = name[: name.index(".", len(BLOCKS)) + 1]
    return numbers[prefix] + name.removeprefix(prefix) if prefix in numbers else None


def _rescale(parameters: dict[str, Tensor], structure: Structure, width: int) -> None:
    """Item vectors enter the network, and scores leave it, as large as before."""
    assert structure.scaled is not None  # noqa: S101
    factor = (width / structure.parts["width"].units) ** 0.5
    parameters[structure.scaled] /= factor
    for name in ("norm.weight", "norm.bias"):
        parameters[name] *= factor
