"""Quotas: at most and at least so many items with a value of a feature."""

from typing import Protocol

import msgspec
import numpy as np

from millirec.cascade.fields import Membership
from millirec.cascade.query import Candidates
from millirec.cascade.selectors.choosing import Choosing, check_sizes
from millirec.cascade.selectors.top_k import top_k
from millirec.data.errors import ConfigError


class QuotaSelector(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="quota"
):
    """Bounds on the values of the catalogue's `feature`, such as a category or a provider.

    `most`: items of each single value, `most_of`: of the values named; None = any number. `least`: items of the
    values named, found even where they are not among the `pool` best candidates. Within the bounds, the list follows
    the order that it meets. `most` always holds, if need be in a shorter list; `least` as far as there are such items,
    and room: values named first come first. `n` as in "mmr".

    An item with several values counts for each. With one value an item, no list within the bounds has a larger sum of
    scores; with several, bounds that stand in each other's way are met one after the other.
    """

    feature: str
    most: int | None = None
    most_of: dict[str, int] = {}
    least: dict[str, int] = {}
    pool: int = 200
    n: int | None = None

    def __post_init__(self) -> None:
        check_sizes("quota", self.pool, self.n)
        check_bounds("quota", self, self.most)

    def most_for(self, value: str) -> int | None:
        """How many items with `value` at most; None = any number."""
        return self.most_of.get(value, self.most)


class Bounds(Protocol):
    """How many items with a value are taken at most and at least."""

    @property
    def most_of(self) -> dict[str, int]: ...

    @property
    def least(self) -> dict[str, int]: ...

    def most_for(self, value: str) -> int | None: ...


def check_bounds(kind: str, bounds: Bounds, most: int | None = None) -> None:
    """Raises ConfigError for bounds that say nothing, or that no list can meet."""
    where = f'$.cascade.selectors ("{kind}")'
    if most is None and not bounds.most_of and not bounds.least:
        raise ConfigError(f"{where} bounds nothing", "give it bounds, such as `most_of` or `least`")
    for name, numbers in (("most", [most or 0]), ("most_of", bounds.most_of.values())):
        if min(numbers, default=0) < 0:
            raise ConfigError(f"{where}.{name} is below 0", "choose 0 or more")
    for value, least in bounds.least.items():
        allowed = bounds.most_for(value)
        if least < 1:
            raise ConfigError(f"{where}.least[{value!r}] = {least}", "choose at least 1, or leave it out")
        if allowed is not None and allowed < least:
            raise ConfigError(
                f"{where}.least[{value!r}] = {least} is more than the most, {allowed}", "raise one or lower the other"
            )


def quota(config: QuotaSelector, candidates: Candidates, choosing: Choosing) -> Candidates:
    """The items taken, in the order that they came in."""
    pool = choosing.pool(candidates, config.pool)
    fields = choosing.shelf.fields
    for value, least in config.least.items():
        rows = np.flatnonzero(fields.matches(config.feature, value)).astype(np.int32)
        pool = _with(pool, top_k(choosing.reach(rows), least))
    return pool.arrange(np.array(taken_within(config, fields.of(config.feature, pool.rows), choosing.n), np.int64))


def _with(pool: Candidates, more: Candidates) -> Candidates:
    """The pool and what it lacks; in the order of scores, unless it has an order of its own."""
    finite = np.isfinite(more.scores) & ~np.isin(more.rows, pool.rows)
    if not finite.any():
        return pool
    both = pool.join(more.take(finite))
    return both if pool.arranged else top_k(both, len(both))


def taken_within(config: Bounds, known: Membership, n: int) -> list[int]:
    """Places 0..P-1, rising, of up to `n` items within the bounds; earlier items are better ones.

    First what `least` asks for, then whatever else has room.
    """
    values = [np.flatnonzero(line).tolist() for line in known.has]
    most = [config.most_for(value) for value in known.values]
    room: list[float] = [np.inf if bound is None else bound for bound in most]
    owed, left = [0] * len(room), n
    for name, least in config.least.items():
        if name in known.values:
            owed[known.values.index(name)] = min(least, left)
            left -= min(least, left)
    taken: set[int] = set()
    for owing in (True, False):
        for at, mine in enumerate(values):
            if len(taken) == n:
                break
            pays = any(owed[value] > 0 for value in mine)
            if at in taken or (owing and not pays) or any(room[value] < 1 for value in mine):
                continue
            taken.add(at)
            for value in mine:
                room[value] -= 1
                owed[value] -= 1
    return sorted(taken)
