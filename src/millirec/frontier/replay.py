"""Replay of held-out events through the engine that serves: recommend, note the rank, then observe."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from millirec.cascade.query import Query, Ranking
from millirec.data.dataset import Dataset
from millirec.data.event import Event
from millirec.data.split import Targets, targets
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore

K = 100
_FEED = 5_000


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay saw.

    `ranks` int64 (t,): the place of each target in the answer, 1 = first; a target that is not among the `K`
    items of the answer counts as last of the catalogue. `top` int32 (t, K): the answers, 0 where shorter.
    `microseconds` float64 (t,): how long each answer took.
    """

    ranks: NDArray[np.int64]
    top: NDArray[np.int32]
    microseconds: NDArray[np.float64]
    n_repeats: int
    n_cold: int


def replay(
    engine: Engine, dataset: Dataset, role: int, *, repeats: bool = False, only: Targets | None = None
) -> Replay:
    """Test-then-observe of all targets of a part: `feed`, then `ask`. The engine's store must be empty."""
    asked = targets(dataset, role, repeats=repeats)
    feed(engine.store, dataset, asked, in_time=engine.reads_log)
    return ask(engine, dataset, asked, repeats=repeats, only=only)


def feed(store: StateStore, dataset: Dataset, asked: Targets, *, in_time: bool = False) -> None:
    """Let an empty store observe what each asked user did before his first target, each user's events in order.

    `in_time`: only what came before the first target of all, for engines whose answers depend on everybody's events:
    `ask` observes the rest when its time comes.
    """
    places = _before(asked)
    if in_time and len(places):
        times = dataset.sequences.times
        places = places[times[places] < _opened(dataset, asked)]
        places = places[np.argsort(times[places], kind="stable")]
    for start in range(0, len(places), _FEED):
        store.submit([_event(dataset, int(place)) for place in places[start : start + _FEED]]).result()


def ask(
    engine: Engine, dataset: Dataset, asked: Targets, *, repeats: bool = False, only: Targets | None = None
) -> Replay:
    """Ask for every target, at the time of the target (a server knows when it is asked), then observe it.

    Events come in the order of time. The engine's store has been fed with `feed`. `only`: some of the targets; the
    others are observed and not asked for.
    """
    n_items, only = len(dataset.items), asked if only is None else only
    k = min(K, n_items)
    ranks = np.full(len(only), n_items, np.int64)
    top = np.zeros((len(only), k), np.int32)
    micros = np.zeros(len(only))
    rows = engine.bundle.catalog.vocabulary.rows
    wanted = {int(place): i for i, place in enumerate(only.places)}
    for place in _in_time(dataset, asked, whole=engine.reads_log):
        event = _event(dataset, place)
        i = wanted.get(place)
        if i is not None:
            began = time.perf_counter()
            answer = engine.recommend(Query(user=event.user, time=event.time, k=k, keep_seen=repeats))
            micros[i] = 1e6 * (time.perf_counter() - began)
            top[i, : len(answer.items)] = rows(answer.items)
            if event.item in answer.items:
                ranks[i] = _rank(answer, event.item, k, n_items)
        engine.observe(event)
    return Replay(ranks, top, micros, asked.n_repeats, asked.n_cold)


def _rank(answer: Ranking, item: str, k: int, n_items: int) -> int:
    """The place of an item that was shown, behind all that score the same; a tie that runs off the list is last."""
    at = answer.items.index(item)
    last = max(i for i, score in enumerate(answer.scores) if score == answer.scores[at])
    tied = answer.scores.count(answer.scores[at]) > 1
    return n_items if tied and last == k - 1 else last + 1


def _event(dataset: Dataset, place: int) -> Event:
    seq = dataset.sequences
    user = dataset.users.vocabulary.id(int(seq.users[place]))
    item, values = dataset.items.vocabulary.id(int(seq.items[place])), dataset.interactions.values
    value = np.nan if values is None else float(values[seq.order[place]])
    return Event(user=user, item=item, time=int(seq.times[place]), value=None if np.isnan(value) else value)


def _before(asked: Targets) -> NDArray[np.int64]:
    """Places of everything that the asked users did before their first target."""
    first = _first_targets(asked)
    return _spans((start, place) for start, place in first.items())


def _in_time(dataset: Dataset, asked: Targets, *, whole: bool = False) -> list[int]:
    """Places from each user's first target to the last one, in the order of time, ties by user and file order.

    `whole`: also what these users did before, from the moment of the first target of all.
    """
    first = _first_targets(asked)
    last: dict[int, int] = dict(zip(asked.starts.tolist(), asked.places.tolist(), strict=True))
    places = _spans((start if whole else place, last[start] + 1) for start, place in first.items())
    if whole and len(places):
        kept = dataset.sequences.times[places] >= _opened(dataset, asked)
        places = places[kept]
    order = np.lexsort((places, dataset.sequences.times[places]))
    return [int(place) for place in places[order]]


def _opened(dataset: Dataset, asked: Targets) -> int:
    """The time of the first target of all."""
    return int(dataset.sequences.times[asked.places].min())


def _first_targets(asked: Targets) -> dict[int, int]:
    """Start of a user -> place of the first target. Targets ascend by place."""
    starts, at = np.unique(asked.starts, return_index=True)
    return dict(zip(starts.tolist(), asked.places[at].tolist(), strict=True))


def _spans(bounds: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    parts = [np.arange(start, stop, dtype=np.int64) for start, stop in bounds]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
