"""`near_duplicates`: histories that are all but equal to another one.

MinHash signatures (Broder, On the resemblance and containment of documents, SEQUENCES 1997) cut into bands (Leskovec,
Rajaraman and Ullman, Mining of Massive Datasets, chapter 3) bring likely pairs together; each pair is then counted
exactly, so that chance decides about no history that is left out.
"""

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from millirec.data.errors import ConfigError

_HASHES = 64
_MISSED = 1e-3  # chance that a pair at the very threshold is not found
_AT_ONCE = 1 << 22  # shingles of pairs that are compared at once

_Ints = NDArray[np.int64]
_Hashes = NDArray[np.uint64]


class Duplicates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of histories that resemble each other only the longest is kept (of equally long ones the first).

    A history is the set of its shingles: `shingle` successive items, in order; 1 = the set of its items.
    `similarity`: from which share of common shingles on (Jaccard: common / all of both) two are copies. Histories of
    fewer than `min_events` events are left alone: short ones are equal by chance.
    """

    similarity: float = 0.8
    shingle: int = 2
    min_events: int = 10

    def __post_init__(self) -> None:
        if not 0.2 <= self.similarity <= 1:
            raise ConfigError(f"$.thin.duplicates.similarity = {self.similarity:g}", "choose a share from 0.2 to 1")
        if not 1 <= self.shingle <= 10:
            raise ConfigError(f"$.thin.duplicates.shingle = {self.shingle}", "choose 1 to 10 items")
        if self.min_events < max(2, self.shingle):
            raise ConfigError(
                f"$.thin.duplicates.min_events = {self.min_events}", "choose 2 or more, and at least `shingle`"
            )


@dataclass(frozen=True, slots=True)
class Copies:
    """Histories that are left out, which one is kept in place of each, and how alike they are. All (c,)."""

    dropped: _Ints
    kept: _Ints
    similarity: NDArray[np.float64]


def near_duplicates(items: NDArray[np.int32], lengths: _Ints, config: Duplicates) -> Copies:
    """Among histories that lie one behind the other in `items` (m,), `lengths` (n,). Deterministic."""
    long = np.flatnonzero(lengths >= config.min_events)
    shingles, counts = _shingles(items[np.repeat(lengths >= config.min_events, lengths)], lengths[long], config.shingle)
    order = np.lexsort((long, -lengths[long]))  # the best first: longest, then first
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    pairs = _candidates(_signatures(shingles, counts), place, config.similarity)
    alike = _jaccard(shingles, counts, pairs)
    pairs, alike = pairs[alike >= config.similarity], alike[alike >= config.similarity]
    dropped = _dropped(place[pairs], len(long))[place]
    told = ~dropped[pairs[:, 0]] & dropped[pairs[:, 1]]
    pairs, alike = pairs[told], alike[told]
    order = np.lexsort((pairs[:, 0], -alike, pairs[:, 1]))  # of the kept ones that it resembles, the most alike
    first = order[np.unique(pairs[order, 1], return_index=True)[1]]
    return Copies(long[pairs[first, 1]], long[pairs[first, 0]], alike[first])


def _shingles(items: NDArray[np.int32], lengths: _Ints, size: int) -> tuple[_Hashes, _Ints]:
    """A hash of every `size` successive items of a history (repeated ones again), and how many each history has."""
    hashes = _mixed(items.astype(np.uint64))
    whole = hashes.copy()
    for ahead in range(1, size):
        whole[: len(items) - ahead] = _mixed(whole[: len(items) - ahead] * np.uint64(31) + hashes[ahead:])
    left = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(items))  # items from here to the end of the history
    return whole[left >= size], lengths - size + 1


def _mixed(words: _Hashes) -> _Hashes:
    """Bits well mixed (the finaliser of SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _signatures(shingles: _Hashes, counts: _Ints) -> _Hashes:
    """MinHash signatures, (n, 64): equal entries are as frequent as common shingles."""
    if not len(counts):
        return np.empty((0, _HASHES), np.uint64)
    starts = np.cumsum(counts) - counts
    factors = np.random.default_rng(0).integers(0, 2**64, (_HASHES, 2), np.uint64, endpoint=False)
    columns = [np.minimum.reduceat((shingles ^ salt) * (factor | np.uint64(1)), starts) for factor, salt in factors]
    return np.stack(columns, 1)


def _candidates(signatures: _Hashes, place: _Ints, similarity: float) -> _Ints:
    """Pairs (p, 2) that agree in a whole band, the better one first.

    In a bucket each is paired with the best and with its neighbour: enough, since equal ones share the best.
    """
    found = [np.empty(0, np.int64)]
    n, rows = len(signatures), _rows(similarity)
    for band in range(_HASHES // rows):
        key = np.zeros(n, np.uint64)
        for column in range(band * rows, (band + 1) * rows):
            key = _mixed(key ^ signatures[:, column])
        order = np.lexsort((place, key))
        again = np.concatenate([np.zeros(min(n, 1), np.bool_), key[order][1:] == key[order][:-1]])
        at = np.flatnonzero(again)
        leaders = np.maximum.accumulate(np.where(again, 0, np.arange(n)))[at]
        found += [order[better] * n + order[at] for better in (leaders, at - 1)]
    codes = np.unique(np.concatenate(found))
    return np.stack(np.divmod(codes, max(n, 1)), 1)


def _rows(similarity: float) -> int:
    """How many hashes make a band: as many as still find nearly every pair at the threshold."""
    good = [rows for rows in range(1, 17) if (1 - similarity**rows) ** (_HASHES // rows) <= _MISSED]
    return max(good, default=1)


def _jaccard(shingles: _Hashes, counts: _Ints, pairs: _Ints) -> NDArray[np.float64]:
    """The exact similarity of each pair, (p,)."""
    used = np.zeros(len(counts), np.bool_)
    used[pairs] = True
    owners = np.repeat(np.arange(len(counts)), counts)
    mine = used[owners]
    ids = np.unique(shingles[mine], return_inverse=True)[1]
    sets = csr_array((np.ones(len(ids)), (owners[mine], ids)), (len(counts), int(ids.max(initial=0)) + 1))
    sets.sum_duplicates()
    sets.data[:] = 1
    sizes = np.diff(sets.indptr)
    cost = np.cumsum(sizes[pairs].sum(1))
    parts = np.split(pairs, np.flatnonzero(np.diff(cost // _AT_ONCE)) + 1)
    both = np.concatenate([np.asarray((sets[part[:, 0]] * sets[part[:, 1]]).sum(1), np.float64) for part in parts])
    similarity: NDArray[np.float64] = both / (sizes[pairs].sum(1) - both)
    return similarity


def _dropped(edges: _Ints, n: int) -> NDArray[np.bool_]:
    """Which of n histories have a kept, better one beside them; `edges` (e, 2), the better (lower) one first.

    The best that is still open is kept and drops its neighbours, for all that have no better open neighbour at once.
    """
    dropped = np.zeros(n, np.bool_)
    open_ = np.ones(n, np.bool_)
    while len(edges):
        waiting = np.zeros(n, np.bool_)
        waiting[edges[:, 1]] = True
        kept = open_ & ~waiting
        dropped[edges[kept[edges[:, 0]], 1]] = True
        open_ &= waiting & ~dropped
        edges = edges[open_[edges].all(1)]
    return dropped
