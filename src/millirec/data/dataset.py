"""`Interactions` and `Dataset`: the log as column arrays, its catalogues, and its split."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millirec.data.catalog import Catalog

TRAIN, VALIDATION, TEST = 0, 1, 2
CONTEXT = 3
"""Only history: neither trained on nor measured, such as the given prefix of a test session."""


@dataclass(frozen=True, slots=True)
class Interactions:
    """The log as columns, one entry an event, in file order.

    `users` int32 (n,) rows of the user catalogue; `items` int32 (n,) rows of the item catalogue; `times` int64
    (n,) milliseconds; `values` float32 (n,) such as a rating, NaN = none, or None when the log has no values.
    `context`: further columns (n,) by name, NaN or None = missing. `shown` bool (n,): rows that tell what was shown,
    and nothing that anybody did; None = there are none.
    """

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    times: NDArray[np.int64]
    values: NDArray[np.float32] | None = None
    context: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    shown: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, which: NDArray[Any]) -> "Interactions":
        """The events at these positions (int array) or where this mask is true."""
        values = None if self.values is None else self.values[which]
        context = {name: column[which] for name, column in self.context.items()}
        shown = None if self.shown is None else self.shown[which]
        return Interactions(self.users[which], self.items[which], self.times[which], values, context, shown)


@dataclass(frozen=True, slots=True)
class Sequences:
    """Events grouped by user, in time order, ties in file order.

    User row `u` owns `items[offsets[u]:offsets[u + 1]]`; `order` maps each place back to the log. `offsets`
    int64 (n_users + 2,), the rest (n,). `roles` uint8: TRAIN, VALIDATION, TEST or CONTEXT.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    times: NDArray[np.int64]
    roles: NDArray[np.uint8]
    users: NDArray[np.int32]
    order: NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """Interactions + catalogues + split.

    `roles` uint8 (n,) says for each event of the log: TRAIN, VALIDATION, TEST or CONTEXT (all TRAIN before a
    split). `protocol` names the split in words, for the artifacts; "none" before a split. `rejected` counts the
    rows of the source that could not be read and were left out. Without `timed` the source told no times: they
    count the events in file order.
    """

    interactions: Interactions
    items: Catalog
    users: Catalog
    roles: NDArray[np.uint8]
    name: str = "log"
    protocol: str = "none"
    rejected: int = 0
    timed: bool = True

    @classmethod
    def of(cls, interactions: Interactions, items: Catalog, users: Catalog, name: str = "log") -> "Dataset":
        """A data set that is not split yet."""
        return cls(interactions, items, users, np.zeros(len(interactions), np.uint8), name)

    def with_roles(self, roles: NDArray[np.uint8], protocol: str) -> "Dataset":
        """The same events under another split."""
        return replace(self, roles=roles, protocol=protocol)

    @cached_property
    def sequences(self) -> Sequences:
        """The log by user in time order (stable sort by time, file order on ties)."""
        log = self.interactions
        order = np.lexsort((log.times, log.users)).astype(np.int64)
        users = log.users[order]
        counts = np.bincount(users, minlength=len(self.users) + 1)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Sequences(offsets, log.items[order], log.times[order], self.roles[order], users, order)

    @cached_property
    def popularity(self) -> NDArray[np.int64]:
        """Training events of each item row, shape (n_items + 1,)."""
        train = self.interactions.items[self.roles == TRAIN]
        return np.bincount(train, minlength=len(self.items) + 1).astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the log and of the ids: two data sets with the same hash hold the same events in order."""
        digest = hashlib.sha256()
        log = self.interactions
        for array in (log.users, log.items, log.times):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update("\0".join(self.items.vocabulary.ids).encode())
        digest.update("\0".join(self.users.vocabulary.ids).encode())
        return digest.hexdigest()

    @cached_property
    def split_fingerprint(self) -> str:
        """A hash of the events and of the role of each: what is learned from and what is asked for."""
        return hashlib.sha256(self.fingerprint.encode() + self.roles.tobytes()).hexdigest()
