"""Rules of a question: conditions on the features of items, and boosts of those that meet some."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.cascade.fields import Fields, Mask
from millirec.data.errors import QueryError

MAX_VALUES = 100
MAX_BOOSTS = 8  # whether an item meets each of them fits in a byte


class Condition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an item's feature must be; all that is named must hold.

    `any_of`, `all_of`, `none_of`: values; an item without a value meets only the last. `at_least`, `at_most`: bounds of
    a number, ends included; an item without the number does not meet them.
    """

    any_of: tuple[str, ...] | None = None
    all_of: tuple[str, ...] = ()
    none_of: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        """Raises QueryError when nothing is asked for, or nothing can meet it."""
        low, high = self.at_least, self.at_most
        if self.any_of is None and not self.all_of and not self.none_of and low is None and high is None:
            raise QueryError("where: a condition asks for nothing", "name any_of, all_of, none_of, at_least or at_most")
        barred = set(self.none_of)
        wrong = [value for value in self.all_of if value in barred]
        if self.any_of and barred.issuperset(self.any_of):
            wrong.append(self.any_of[0])
        if wrong:
            raise QueryError(f"where: {wrong[0]!r} is asked for and in none_of", "leave it out of one of them")
        if not all(bound is None or math.isfinite(bound) for bound in (low, high)):
            raise QueryError("where: a bound is no finite number", "leave an open end out")
        if low is not None and high is not None and low > high:
            raise QueryError(f"where: at_least = {low:g} is above at_most = {high:g}", "swap them")


Wanted = str | tuple[str, ...] | Condition
"""A value, any of several values, or a condition."""


class Boost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Raises or lowers the score of every item that meets `where`.

    First `times`: a positive score is multiplied by it, a negative one divided, so that more than 1 raises both. Then
    `add`. Of several boosts, all factors come before all terms.
    """

    where: dict[str, Wanted]
    times: float = 1.0
    add: float = 0.0

    def __post_init__(self) -> None:
        """Raises QueryError for numbers out of range, and for a boost that does nothing."""
        if not self.where:
            raise QueryError("boost: `where` is empty", "say which items it is for")
        if not 1e-6 <= self.times <= 1e6:
            raise QueryError(f"boost: times = {self.times:g}", "choose a number from 1e-6 to 1e6")
        if not abs(self.add) <= 1e9:
            raise QueryError(f"boost: add = {self.add:g}", "choose a number from -1e9 to 1e9")
        if self.times == 1 and self.add == 0:
            raise QueryError("boost: changes nothing", "give `times` or `add`")


@dataclass(slots=True, frozen=True)
class Boosts:
    """Several boosts on all items: `group` uint8 (n_items + 1,) says which ones an item meets, a bit for each.

    `times` and `add` float32 (2 ** boosts,): what they come to in each group. Within a group, boosts keep the order.
    """

    group: NDArray[np.uint8]
    times: NDArray[np.float32]
    add: NDArray[np.float32]

    def boosted(self, rows: NDArray[np.int32], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """The scores (n,) of rows (n,), boosted."""
        groups = self.group[rows]
        times = self.times[groups]
        with np.errstate(over="ignore"):
            out: NDArray[np.float32] = np.where(scores < 0, scores / times, scores * times) + self.add[groups]
        return out


def meets(fields: Fields, where: Mapping[str, Wanted]) -> Mask:
    """Which rows meet all conditions, bool (n_items + 1,). Raises QueryError for an unknown feature."""
    masks = [_met(fields, name, wanted) for name, wanted in where.items()]
    return masks[0] if len(masks) == 1 else np.logical_and.reduce(masks)


def boosts_of(fields: Fields, boosts: Sequence[Boost]) -> Boosts:
    """The boosts of a question on all items. Raises QueryError for an unknown feature, or for too many."""
    if len(boosts) > MAX_BOOSTS:
        raise QueryError(f"boost: {len(boosts)} boosts, at most {MAX_BOOSTS} are taken", "send fewer")
    times, add, group = np.ones(1), np.zeros(1), np.zeros(fields.n_rows, np.uint8)
    for bit, boost in enumerate(boosts):
        group[meets(fields, boost.where)] |= 1 << bit
        times, add = np.concatenate([times, times * boost.times]), np.concatenate([add, add + boost.add])
    return Boosts(group, times.astype(np.float32), add.astype(np.float32))


def check_values(where: Mapping[str, Wanted]) -> None:
    """Raises QueryError for more values than are looked up for one question."""
    n = 0
    for wanted in where.values():
        if isinstance(wanted, Condition):
            n += len(wanted.any_of or ()) + len(wanted.all_of) + len(wanted.none_of)
        n += len(wanted) if isinstance(wanted, tuple) else 1
    if n > MAX_VALUES:
        raise QueryError(f"where: {n} values and conditions, at most {MAX_VALUES} are taken", "send fewer")


def _met(fields: Fields, name: str, wanted: Wanted) -> Mask:
    match wanted:
        case str():
            return fields.matches(name, wanted)
        case tuple():
            return _any(fields, name, wanted)
    masks = [fields.matches(name, value) for value in wanted.all_of]
    if wanted.any_of is not None:
        masks.append(_any(fields, name, wanted.any_of))
    if wanted.none_of:
        masks.append(~_any(fields, name, wanted.none_of))
    if wanted.at_least is not None:
        masks.append(fields.numbers(name) >= wanted.at_least)
    if wanted.at_most is not None:
        masks.append(fields.numbers(name) <= wanted.at_most)
    out: Mask = np.logical_and.reduce(masks)
    out[0] = False
    return out


def _any(fields: Fields, name: str, values: tuple[str, ...]) -> Mask:
    if not values:
        return np.zeros(fields.n_rows, np.bool_)
    out: Mask = np.logical_or.reduce([fields.matches(name, value) for value in values])
    return out
