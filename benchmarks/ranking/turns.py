"""Several engines on one store, asked in turns: the test part of a log, each event asked for before it is seen."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from millirec.cascade.query import Query, Ranking
from millirec.data.dataset import TEST, Dataset
from millirec.data.event import Event
from millirec.data.history import HistoryLimits
from millirec.engine.state import StateStore, StoreSettings

_FEED = 5_000
Way = Callable[[Query], Ranking]


class Turn(NamedTuple):
    """An event of the test part: its place in the log, the item that was taken, what each way had answered before."""

    place: int
    item: str
    answers: dict[str, Ranking]


@contextmanager
def store_for(max_length: int) -> Iterator[StateStore]:
    """A store that goes with the process, for a model that reads so many events."""
    with StateStore.temporary(StoreSettings(limits=HistoryLimits().covering(max_length))) as store:
        yield store


def in_turns(
    store: StateStore, dataset: Dataset, ways: Mapping[str, Way], k: int, most: int | None = None
) -> Iterator[Turn]:
    """Every event of the test part, or the first `most`, in the order of time. The store is empty at first."""
    log, users, items = dataset.interactions, dataset.users.vocabulary, dataset.items.vocabulary
    by_time = np.argsort(log.times, kind="stable")
    is_test = dataset.roles[by_time] == TEST
    older = by_time[~is_test]
    for at in range(0, len(older), _FEED):
        store.submit([event_of(dataset, int(place)) for place in older[at : at + _FEED]]).result()
    for place in by_time[is_test][:most].tolist():
        query = Query(user=users.id(int(log.users[place])), time=int(log.times[place]), k=k)
        yield Turn(place, items.id(int(log.items[place])), {name: way(query) for name, way in ways.items()})
        store.append([event_of(dataset, place)])


def event_of(dataset: Dataset, place: int) -> Event:
    """One event of the log."""
    log = dataset.interactions
    user, item = dataset.users.vocabulary.id(int(log.users[place])), dataset.items.vocabulary.id(int(log.items[place]))
    return Event(
        user=user, item=item, time=int(log.times[place]), value=None if log.values is None else float(log.values[place])
    )


def gain(answer: Ranking, item: str) -> float:
    """NDCG of one answer for the one item that was taken."""
    return float(1 / np.log2(answer.items.index(item) + 2.0)) if item in answer.items else 0.0
