"""The simulator's world: who wants what, and when; events come from it block by block.

An event is caused by popularity (Zipf weights that drift), by the user's interests (a mixture over categories that
moves), or by the item before it in the session (each item has a few successors). All three are tractable, so the true
probability of every event is known. Memory is O(users + items), whatever the number of events.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from millirec.data.errors import ConfigError
from millirec.data.filters import Filters

POPULARITY, INTEREST, SEQUENCE = 0, 1, 2

DAY = 86_400_000
INTERESTS = 3
"""Interests that a user has at a time."""

_BLOCK = 100_000
_LONGEST = 50
_STEPS = np.array([1, 2, 3])
_STEP_SHARES = np.array([0.6, 0.25, 0.15])

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class SimulatedConfig(Filters, frozen=True, kw_only=True, tag="simulated"):
    """A simulated log of `events` events over `days` days from `start` (ms), in `epochs` slices of time.

    `zipf`: exponent of the popularity; `drift`: how far log-popularity wanders per epoch; `new_items`: share of the
    items that arrive after the first epoch; `interest_change`: chance that an interest is replaced per epoch.
    `popularity_share` and `sequence_share` of the events come from popularity and from the item before, the rest from
    the user's interests. `session_length`: mean, at most 50. `dim`: width of the item vectors.
    """

    users: int = 1000
    items: int = 2000
    events: int = 100_000
    categories: int = 20
    seed: int = 1
    days: float = 90
    epochs: int = 12
    start: int = 1_700_000_000_000
    zipf: float = 0.9
    drift: float = 0.2
    new_items: float = 0.2
    interest_change: float = 0.1
    session_length: float = 6
    popularity_share: float = 0.2
    sequence_share: float = 0.5
    dim: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("users", "items", "events", "categories", "epochs", "dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"$.data.{name} = {getattr(self, name)}", "choose 1 or more")
        for name in ("drift", "zipf", "seed", "start"):
            if getattr(self, name) < 0:
                raise ConfigError(f"$.data.{name} = {getattr(self, name)}", "choose 0 or more")
        for name in ("new_items", "interest_change", "popularity_share", "sequence_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"$.data.{name} = {getattr(self, name)}", "choose a share from 0 to 1")
        if self.popularity_share + self.sequence_share > 1:
            raise ConfigError("$.data: popularity_share and sequence_share exceed 1", "choose smaller shares")
        if self.categories > self.items:
            raise ConfigError(f"$.data.categories = {self.categories} exceeds the items", "choose fewer")
        if self.session_length < 1 or self.days <= 0:
            raise ConfigError("$.data: session_length must be at least 1 and days above 0")


@dataclass(frozen=True, slots=True)
class Events:
    """Events in time order, arrays (n,). `users`, `items` count from 0; `times` ms.

    `causes` uint8 is POPULARITY, INTEREST or SEQUENCE; `probabilities` float32 is the true probability of the item
    given everything (interests, popularity, the item before), whatever caused it.
    """

    users: Ints
    items: Ints
    times: Ints
    causes: NDArray[np.uint8]
    probabilities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.users)

    def take(self, which: NDArray[np.generic]) -> "Events":
        """The events at these positions, or where this mask is true."""
        return Events(*(getattr(self, name)[which] for name in self.__slots__))


def together(parts: list[Events]) -> Events:
    """The parts one after another."""
    return Events(*(np.concatenate([getattr(p, name) for p in parts]) for name in Events.__slots__))


@dataclass(frozen=True, slots=True)
class Interests:
    """What users want in one epoch: `categories` int32 and `weights` float32 (sum 1), both (users, INTERESTS)."""

    epoch: int
    start: int
    categories: NDArray[np.int32]
    weights: NDArray[np.float32]


class World:
    """Items are laid out category by category, so that one cumulative sum samples globally and within each."""

    def __init__(self, config: SimulatedConfig) -> None:
        self.config = config
        n, k = config.items, config.categories
        rng = self._rng(0)
        share = 1.0 / np.arange(1, k + 1) ** 0.5
        sizes = 1 + rng.multinomial(n - k, share / share.sum())
        self.starts: Ints = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.categories = np.repeat(np.arange(k, dtype=np.int32), sizes)
        self._log_weights = (-config.zipf * np.log1p(rng.permutation(n))).astype(np.float32)
        # The epoch in which an item arrives; the first of each category is always there.
        self.arrivals = np.zeros(n, np.int32)
        new = rng.random(n) < config.new_items
        self.arrivals[new] = rng.integers(1, max(config.epochs, 2), int(new.sum()))
        self.arrivals[self.starts[:-1]] = 0
        activity = 1.0 / np.arange(1, config.users + 1) ** 0.5
        self._activity = np.cumsum(rng.permutation(activity))
        self._interests = self._fresh_interests()
        self._cumulative: Floats = np.zeros(n + 1)
        self._weights: Floats = np.zeros(n)

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, *stream])

    def epoch_start(self, epoch: int) -> int:
        """When an epoch begins, ms."""
        return self.config.start + int(self.config.days * DAY * epoch / self.config.epochs)

    def run(self) -> Iterator[Interests | Events]:
        """The epochs in order: first the interests of an epoch, then its events in time order."""
        held: list[Events] = []
        for epoch in range(self.config.epochs):
            self._move(epoch)
            wanted, weights = self._interests
            yield Interests(epoch, self.epoch_start(epoch), wanted.copy(), weights.copy())
            for number, size, begin, end in self._blocks(epoch):
                held.append(self._block(self._rng(2, epoch, number), size, epoch, begin, end))
                events = together(held)
                events = events.take(np.argsort(events.times, kind="stable"))
                # Sessions go on beyond their block: what is later than its end waits for the next one.
                done = int(np.searchsorted(events.times, end))
                held = [events.take(np.arange(done, len(events)))]
                yield events.take(np.arange(done))
        yield together(held)

    def _blocks(self, epoch: int) -> Iterator[tuple[int, int, int, int]]:
        """Number, events, begin and end (ms) of the blocks of an epoch."""
        total, epochs = self.config.events, self.config.epochs
        here = total * (epoch + 1) // epochs - total * epoch // epochs
        n = -(-here // _BLOCK)
        begin, end = self.epoch_start(epoch), self.epoch_start(epoch + 1)
        for i in range(n):
            size = here * (i + 1) // n - here * i // n
            yield i, size, begin + (end - begin) * i // n, begin + (end - begin) * (i + 1) // n

    def _fresh_interests(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        rng, n, k = self._rng(1), self.config.users, self.config.categories
        wanted = rng.integers(0, k, (n, INTERESTS)).astype(np.int32)
        weights = rng.dirichlet(np.full(INTERESTS, 1.0), n).astype(np.float32)
        return wanted, weights

    def _move(self, epoch: int) -> None:
        """Into the next epoch: interests change, popularity drifts, items arrive."""
        rng, config = self._rng(3, epoch), self.config
        if epoch:
            wanted, _ = self._interests
            change = rng.random(wanted.shape) < config.interest_change
            wanted[change] = rng.integers(0, config.categories, int(change.sum()))
            if config.drift:
                self._log_weights += config.drift * rng.standard_normal(config.items, np.float32)
        np.exp(self._log_weights, out=self._weights)
        self._weights[self.arrivals > epoch] = 0
        np.cumsum(self._weights, out=self._cumulative[1:])

    def _block(self, rng: np.random.Generator, size: int, epoch: int, begin: int, end: int) -> Events:
        lengths = self._session_lengths(rng, size)
        n, last = len(lengths), _last(self._activity)
        users = np.minimum(np.searchsorted(self._activity, rng.random(n) * last, side="right"), len(self._activity) - 1)
        times = begin + (rng.random(n) * (end - begin)).astype(np.int64)
        order = np.argsort(-lengths, kind="stable")  # the sessions still going on are always the first ones
        lengths, users, times = lengths[order], users[order], times[order]
        parts: list[Events] = []
        previous: Ints | None = None
        for step in range(int(lengths[0])):
            going = int(np.searchsorted(-lengths, -step, side="left"))
            users, times = users[:going], times[:going]
            if step:
                times = times + 1000 + rng.exponential(60_000, going).astype(np.int64)
            items, causes, chances = self._choose(rng, users, None if previous is None else previous[:going], epoch)
            parts.append(Events(users, items, times, causes, chances))
            previous = items
        return together(parts)

    def _session_lengths(self, rng: np.random.Generator, size: int) -> Ints:
        """Geometric lengths that add up to `size`."""
        guess = int(size / self.config.session_length * 1.5) + 50
        lengths = np.minimum(rng.geometric(1 / self.config.session_length, guess), _LONGEST).astype(np.int64)
        while lengths.sum() < size:
            lengths = np.concatenate([lengths, lengths])
        n = int(np.searchsorted(np.cumsum(lengths), size)) + 1
        lengths = lengths[:n].copy()
        lengths[-1] -= lengths.sum() - size
        return lengths

    def _choose(
        self, rng: np.random.Generator, users: Ints, previous: Ints | None, epoch: int
    ) -> tuple[Ints, NDArray[np.uint8], NDArray[np.float32]]:
        """An item for each user, its cause and its true probability."""
        n, config = len(users), self.config
        sequence = 0.0 if previous is None else config.sequence_share
        popular = config.popularity_share
        draw = rng.random(n)
        causes = np.where(draw < popular, POPULARITY, np.where(draw < 1 - sequence, INTEREST, SEQUENCE)).astype(
            np.uint8
        )
        items = np.where(causes == INTEREST, self._by_interest(rng, users), self._by_popularity(rng, n))
        follow = rng.choice(len(_STEPS), n, p=_STEP_SHARES)
        if previous is not None:
            successors = self.successors(previous)
            there = self.arrivals[successors] <= epoch
            at = np.arange(n)
            # A successor that has not arrived yet: popularity decides.
            can = (causes == SEQUENCE) & there[at, follow]
            causes[(causes == SEQUENCE) & ~can] = POPULARITY
            items = np.where(can, successors[at, follow], items)
        return items, causes, self._probabilities(users, items, previous, epoch)

    def _probabilities(self, users: Ints, items: Ints, previous: Ints | None, epoch: int) -> NDArray[np.float32]:
        config, cumulative = self.config, self._cumulative
        categories = self.categories[items]
        inside = cumulative[self.starts[categories + 1]] - cumulative[self.starts[categories]]
        wanted, weights = self._interests
        interest = (weights[users] * (wanted[users] == categories[:, None])).sum(1)
        popular = np.full(len(users), config.popularity_share)
        follow = np.zeros(len(users))
        sequence = 0.0 if previous is None else config.sequence_share
        if previous is not None:
            successors = self.successors(previous)
            there = self.arrivals[successors] <= epoch
            popular += sequence * (_STEP_SHARES * ~there).sum(1)
            follow = sequence * (_STEP_SHARES * (there & (successors == items[:, None]))).sum(1)
        weight = self._weights[items]
        by_interest = (1 - config.popularity_share - sequence) * interest * weight / inside
        chance: Floats = popular * weight / _last(cumulative) + by_interest + follow
        return chance.astype(np.float32)

    def successors(self, items: Ints) -> Ints:
        """The items that may follow each item, (n, 3): its neighbours in the category, shares 0.6, 0.25, 0.15."""
        starts = self.starts[self.categories[items]]
        sizes = self.starts[self.categories[items] + 1] - starts
        successors: Ints = starts[:, None] + ((items - starts)[:, None] + _STEPS) % sizes[:, None]
        return successors

    def _by_popularity(self, rng: np.random.Generator, n: int) -> Ints:
        found = np.searchsorted(self._cumulative[1:], rng.random(n) * _last(self._cumulative), side="right")
        return self._there(np.minimum(found, self.config.items - 1))

    def _by_interest(self, rng: np.random.Generator, users: Ints) -> Ints:
        wanted, weights = self._interests
        at = (rng.random(len(users))[:, None] > np.cumsum(weights[users], axis=1)[:, :-1]).sum(1)
        category = wanted[users, at]
        low, high = self.starts[category], self.starts[category + 1]
        bottom = self._cumulative[low]
        point = bottom + rng.random(len(users)) * (self._cumulative[high] - bottom)
        found = np.searchsorted(self._cumulative[1:], point, side="right")
        return self._there(np.clip(found, low, high - 1))

    def _there(self, items: Ints) -> Ints:
        """Rounding may hit an item that has not arrived: the first of its category has."""
        return np.where(self._weights[items] > 0, items, self.starts[self.categories[items]])


def _last(array: Floats) -> float:
    return float(array[-1])
