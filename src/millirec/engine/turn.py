"""`Turn`: one question on its way through the engine: checked, narrowed to what may answer it, encoded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from secrets import token_hex
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from millirec.cascade.query import Asked, Query, Stage, Trace
from millirec.cascade.rules import boosts_of, check_values, meets
from millirec.data.errors import QueryError
from millirec.data.event import state_key
from millirec.engine.carry import Question
from millirec.engine.loaded import Loaded
from millirec.engine.members import Encoded
from millirec.engine.ranker import Asker, LiveRanker
from millirec.engine.settings import EngineSettings

Clock = Callable[[], int]  # milliseconds since 1970-01-01 UTC

_NONE = np.empty(0, np.int32)
_NEVER = np.empty(0, np.int64)


@dataclass(slots=True)
class Turn:
    """A question, its place in the batch, and the history that stands for its user, in rows.

    `key` is where the history is stored, None for one that the question gives. `encoded`: which models took part.
    """

    place: int
    query: Query
    asked: Asked
    items: NDArray[np.int32]
    times: NDArray[np.int64]
    time: int
    key: bytes | None
    encoded: Encoded | None = None
    counts_us: float = 0.0

    @property
    def question(self) -> Question:
        """What the models read."""
        return Question(self.key, self.items, self.times, self.time)

    def before(self, state_us: float, encode_us: float) -> Trace:
        """The stages before the cascade: events read from the state, those that the model knows, items with counts."""
        known = int(np.count_nonzero(self.items))
        encoded, extra = int(self.asked.vector is not None), self.asked.extra
        encode_us = max(encode_us - self.counts_us, 0.0)
        stages = Stage("state", len(self.items), known, state_us), Stage("encode", known, encoded, encode_us)
        return stages if extra is None else (*stages, Stage("counts", known, len(extra.rows), self.counts_us))


def turn_of(loaded: Loaded, settings: EngineSettings, clock: Clock, query: Query, place: int = 0) -> Turn:
    """Check a question and take from it what needs no state. Raises QueryError when it cannot be answered as put."""
    check_k(query.k, settings)
    for name in ("items", "exclude", "include", "own", "candidates"):
        _check_ids(name, getattr(query, name), settings)
    if query.own and not loaded.cascade.takes_own:
        raise QueryError('own: the cascade has no source "own"', "add it to the sources, or leave `own` out")
    if query.where or query.boost:
        for where in (query.where, *[boost.where for boost in query.boost]):
            check_values(where)
    asked = Asked(query.k, None, _NONE, _NONE)
    asked.request_id = query.request_id or (token_hex(12) if loaded.cascade.explores else None)
    time = query.time if query.time is not None else clock()
    if query.items is None:
        key = state_key(query.user, query.session) if query.user or query.session else None
        return Turn(place, query, asked, _NONE, _NEVER, time, key)
    asked.history = rows = loaded.bundle.catalog.vocabulary.rows(query.items)
    if not query.keep_seen:
        asked.seen = rows
    return Turn(place, query, asked, rows, np.full(len(rows), time), time, None)  # no times are given: all now


def narrow(loaded: Loaded, turn: Turn, clock: Clock) -> None:
    """The filters of a question, in rows. After `Loaded.catch_up`, so that they know the newest fields."""
    query, asked = turn.query, turn.asked
    rows = loaded.bundle.catalog.vocabulary.rows
    asked.available = loaded.available
    if query.exclude:
        asked.exclude = rows(query.exclude)
    if query.include is not None:
        asked.include = rows(query.include)
    if query.own:
        asked.own = rows(query.own)
    if query.where:
        asked.where = meets(loaded.shelf.fields, query.where)
    if query.boost:
        asked.boosts = boosts_of(loaded.shelf.fields, query.boost)
    if query.candidates is not None:
        excluded = set(query.exclude)
        asked.names = tuple([name for name in query.candidates if name not in excluded])
        asked.candidates = rows(asked.names)
    if loaded.ranker is not None:
        asked.ranker = loaded.ranker.scorer(_asker(loaded.ranker, turn, clock()))
    if loaded.pre_ranker is not None:
        asked.pre_ranker = loaded.pre_ranker.scorer(_asker(loaded.pre_ranker, turn, clock()))
    if loaded.tally is not None:
        asked.outcomes = loaded.tally.as_of(turn.time)


def encode(loaded: Loaded, turns: Sequence[Turn]) -> None:
    """Give questions their user vectors; those in a hurry first, as far as their time allows for it."""
    hurried = sorted([turn for turn in turns if turn.query.deadline_ms is not None], key=_deadline)
    for _, group in groupby(hurried, _deadline):
        _encode_in_time(loaded, list(group))
    patient = [turn for turn in turns if turn.query.deadline_ms is None] if hurried else turns
    if patient:
        _take(loaded, patient, loaded.members.encode([turn.question for turn in patient]))


def set_due(loaded: Loaded, turns: Sequence[Turn], started: float) -> None:
    """When each question must be done, so that the whole batch, which is answered together, is in time."""
    for turn in turns:
        query = turn.query
        if query.deadline_ms is not None:
            due = started + query.deadline_ms * 1e-3 if query.due is None else query.due
            turn.asked.due = due - (len(turns) - 1) * loaded.cascade.costs.expected("question")


def check_k(k: int, settings: EngineSettings) -> None:
    """Raises QueryError for a list that is too short or too long."""
    if not 1 <= k <= settings.max_k:
        raise QueryError(f"k = {k}", f"choose 1 to {settings.max_k}")


def _check_ids(name: str, ids: Sequence[str] | None, settings: EngineSettings) -> None:
    if ids and len(ids) > settings.max_items:
        raise QueryError(f"{name}: {len(ids)} ids, at most {settings.max_items} are taken", "send fewer")


def _asker(ranker: LiveRanker, turn: Turn, clock: int) -> Asker:
    """Who asks, for the ranker. A question about the future is answered as of now: windows do not slide back.

    Without a time of its own a question comes after all acknowledged events, those of this millisecond too.
    """
    query = turn.query
    now = clock + 1 if query.time is None else min(query.time, clock)
    if query.items is not None:
        return Asker(0, now, query.context, turn.items)
    return Asker(ranker.user_row(query.user, query.session), now, query.context)


def _deadline(turn: Turn) -> float:
    return turn.query.deadline_ms or 0.0


def _encode_in_time(loaded: Loaded, turns: Sequence[Turn]) -> None:
    """Vectors by what has time enough; where nothing has, the questions are told that they are late."""
    costs = loaded.cascade.costs
    due = min(turn.asked.due for turn in turns if turn.asked.due is not None)
    due -= len(turns) * costs.expected("retrieval")
    begun = perf_counter()
    encoded = loaded.members.encode_by([turn.question for turn in turns], due, costs)
    _take(loaded, turns, encoded)
    if encoded.names:
        costs.took("encode", (perf_counter() - begun) / len(turns))
    for turn in turns:
        turn.asked.is_late = not encoded.names


def _take(loaded: Loaded, turns: Sequence[Turn], encoded: Encoded) -> None:
    """Give questions their vectors, and what was counted adds to the scores."""
    for turn, vector in zip(turns, encoded.vectors, strict=True):
        turn.asked.vector, turn.encoded = vector, encoded
        if vector is not None and loaded.tables:
            begun = perf_counter()
            turn.asked.extra = loaded.gained(turn.items)
            turn.counts_us = (perf_counter() - begun) * 1e6
