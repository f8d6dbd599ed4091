"""`Engine`: observe, recommend, swap. The one place where a bundle meets the state of users."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from secrets import token_hex
from time import perf_counter

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.bundle import Bundle
from millirec.cascade.cascade import CascadeConfig
from millirec.cascade.query import Asked, Query, Ranking, Stage, Trace
from millirec.cascade.rules import boosts_of, check_values, meets
from millirec.data.errors import ArtifactError, ConfigError, MillirecError, NotFoundError, QueryError
from millirec.data.event import Record, shown_key, state_key
from millirec.engine.carry import Question
from millirec.engine.loaded import Loaded
from millirec.engine.members import Encoded
from millirec.engine.ranker import Asker, LiveRanker
from millirec.engine.settings import EngineSettings
from millirec.engine.state import StateStore

_NONE = np.empty(0, np.int32)
_NEVER = np.empty(0, np.int64)


@dataclass(slots=True)
class _Turn:
    """One question on its way: its place in the batch, and the history that stands for its user, in rows."""

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


class Engine:
    """Answers questions from a bundle and a state store; thread-safe. It owns the store: `close` closes it.

    `cascade` is used instead of the bundle's own, and that of every bundle that is swapped in.
    """

    def __init__(
        self,
        bundle: Bundle,
        store: StateStore,
        settings: EngineSettings | None = None,
        cascade: CascadeConfig | None = None,
    ) -> None:
        self.store, self.settings, self._cascade = store, settings or EngineSettings(), cascade
        self._loaded = self._load(bundle, cascade)

    @property
    def bundle(self) -> Bundle:
        """The bundle that answers now."""
        return self._loaded.bundle

    def submit(self, records: Sequence[Record]) -> Future[int]:
        """Hand records over; see `StateStore.submit`."""
        return self.store.submit(records)

    def observe(self, record: Record) -> None:
        """Take in one record; returns when it is durable and the next answer of every process has seen it."""
        self.store.append([record])

    def recommend(self, query: Query) -> Ranking:
        """The answer to one question. Raises QueryError when it cannot be answered as it was put."""
        answer = self.recommend_many([query])[0]
        if isinstance(answer, MillirecError):
            raise answer
        return answer

    def recommend_many(self, queries: Sequence[Query], loaded: Loaded | None = None) -> list[Ranking | MillirecError]:
        """Answers in the order of the questions. A question that cannot be answered gets its error instead.

        All are answered from one snapshot of the state, by one bundle, with as few encoder calls as pay. `loaded`: one
        that `prepare` gave is asked in the place of the one that serves, to warm it up.
        """
        loaded = loaded or self._loaded
        answers: dict[int, Ranking | MillirecError] = {}
        turns: list[_Turn] = []
        started = perf_counter()
        for place, query in enumerate(queries):
            try:
                turns.append(self._turn(loaded, place, query))
            except MillirecError as error:
                answers[place] = error
        try:
            self._remember(loaded, turns)
        except ArtifactError as error:  # one damaged state must not spoil the others
            if len(queries) == 1:
                return [error]
            return [answer for query in queries for answer in self.recommend_many([query], loaded)]
        for turn in turns:
            try:
                self._narrow(loaded, turn)
            except MillirecError as error:
                answers[turn.place] = error
        turns = [turn for turn in turns if turn.place not in answers]
        read = perf_counter()
        _set_due(loaded, turns, started)
        if loaded.cascade.wants_vector:
            self._encode(loaded, turns)
        times = ((read - started) * 1e6, (perf_counter() - read) * 1e6)
        for turn in turns:
            turn.asked.before = _before(turn, *times)
        begun = perf_counter()
        rankings = loaded.cascade.run([turn.asked for turn in turns])
        if any(turn.asked.due is not None for turn in turns):
            loaded.cascade.costs.took("question", (perf_counter() - begun) / len(turns))
        for turn, ranking in zip(turns, rankings, strict=True):
            answers[turn.place] = _signed(ranking, loaded, turn.encoded)
        return [answers[place] for place in range(len(queries))]

    def stream(self, query: Query) -> Iterator[tuple[Ranking, bool]]:
        """The answer stage by stage, each as soon as it is there, and whether it is the last one.

        The last is what `recommend` answers. Nothing is computed before it is asked for, so whoever stops asking costs
        no more. Raises QueryError, before the first one, when the question cannot be answered as it was put.
        """
        if query.candidates is not None:
            raise QueryError("candidates are ranked at once, not stage by stage", "ask with `recommend`")
        loaded, started = self._loaded, perf_counter()
        turn = self._turn(loaded, 0, query)
        self._remember(loaded, [turn])
        self._narrow(loaded, turn)
        turn.asked.before = _before(turn, (perf_counter() - started) * 1e6, 0.0)[:1]
        _set_due(loaded, [turn], started)

        def encode() -> None:
            begun = perf_counter()
            if loaded.cascade.wants_vector:
                self._encode(loaded, [turn])
            took = turn.asked.before[0].microseconds, (perf_counter() - begun) * 1e6
            turn.asked.before = _before(turn, *took)

        for ranking, is_last in loaded.cascade.stream(turn.asked, encode):
            yield _signed(ranking, loaded, turn.encoded), is_last

    def similar(self, item: str, k: int = 10) -> Ranking:
        """The `k` available items whose vectors point most nearly the same way (cosine), best first.

        Raises NotFoundError when the bundle does not know the item, QueryError for a bad `k`.
        """
        self._check_k(k)
        loaded = self._loaded
        vocabulary = loaded.bundle.catalog.vocabulary
        row = vocabulary.row(item)
        if not row:
            raise NotFoundError(f"item {item!r} is not in the bundle", "ask for an item of its catalogue")
        started = perf_counter()
        loaded.catch_up(self.store.read([], len(loaded.rows), loaded.version))
        rows, scores = loaded.shelf.cosines(row, k)
        n = len(rows)
        if loaded.available is not None:
            there = loaded.available[rows]
            rows, scores = rows[there], scores[there]
        rows, scores = rows[:k], scores[:k]
        took = (perf_counter() - started) * 1e6
        found = Ranking(
            items=tuple([vocabulary.ids[row - 1] for row in rows.tolist()]),
            scores=tuple(scores.tolist()),
            source="similar",
            trace=(Stage("similar", n, len(rows), took),),
        )
        return _signed(found, loaded)

    def swap(self, bundle: Bundle) -> None:
        """Answer from another bundle from now on; questions under way end on the old one.

        The new bundle is loaded and warm before the old one goes. Raises ArtifactError when it does not load.
        """
        self.serve(self.prepare(bundle, self._cascade))

    def prepare(self, bundle: Bundle, cascade: CascadeConfig | None = None) -> Loaded:
        """A bundle ready to answer, with `cascade` in the place of its own; nothing changes until `serve`.

        Raises ArtifactError when it does not load, ConfigError when bundle, cascade and store do not fit.
        """
        return self._load(bundle, cascade)

    def serve(self, loaded: Loaded) -> None:
        """Answer from what `prepare` gave from now on; questions under way end on the old one."""
        self._loaded = loaded

    @property
    def reads_log(self) -> bool:
        """Whether answers depend on the events of all users, by way of a ranker's features or of a bandit."""
        return self._loaded.entries_from is not None

    def follow(self) -> None:
        """Let what follows the log see the newest events, so that the next question need not wait for them."""
        self._loaded.follow(self.store)

    def close(self) -> None:
        """Commit what is waiting and close the store."""
        self.store.close()

    def _load(self, bundle: Bundle, cascade: CascadeConfig | None) -> Loaded:
        window = self.store.settings.limits.window
        if window < bundle.max_length:
            raise ConfigError(
                f"$.limits.window = {window} keeps fewer events than the bundle reads ({bundle.max_length})",
                f"set it to {bundle.max_length} or more",
            )
        loaded = Loaded(bundle, self.settings, cascade)
        loaded.catch_up(self.store.read([]))
        loaded.members.warm_up()
        loaded.load_rankers()
        loaded.follow(self.store)
        return loaded

    def _turn(self, loaded: Loaded, place: int, query: Query) -> _Turn:
        """Check a question and take from it what needs no state."""
        self._check_k(query.k)
        self._check_ids("items", query.items)
        self._check_ids("exclude", query.exclude)
        self._check_ids("include", query.include)
        self._check_ids("own", query.own)
        if query.own and not loaded.cascade.takes_own:
            raise QueryError('own: the cascade has no source "own"', "add it to the sources, or leave `own` out")
        self._check_ids("candidates", query.candidates)
        if query.where or query.boost:
            for where in (query.where, *[boost.where for boost in query.boost]):
                check_values(where)
        asked = Asked(query.k, None, _NONE, _NONE)
        asked.request_id = query.request_id or (token_hex(12) if loaded.cascade.explores else None)
        time = query.time if query.time is not None else self.store.clock()
        if query.items is None:
            key = state_key(query.user, query.session) if query.user or query.session else None
            return _Turn(place, query, asked, _NONE, _NEVER, time, key)
        asked.history = rows = loaded.bundle.catalog.vocabulary.rows(query.items)
        if not query.keep_seen:
            asked.seen = rows
        return _Turn(place, query, asked, rows, np.full(len(rows), time), time, None)  # no times are given: all now

    def _remember(self, loaded: Loaded, turns: Sequence[_Turn]) -> None:
        """Read the histories of all questions, and what is new of items, from one snapshot."""
        stored = [turn for turn in turns if turn.key is not None]
        keys = [turn.key for turn in stored if turn.key is not None]
        cap = loaded.cascade.cap
        shown = [] if cap is None else [shown_key(key) for key in keys]
        snapshot = self.store.read([*keys, *shown], len(loaded.rows), loaded.version, loaded.entries_from)
        loaded.catch_up(snapshot)
        loaded.follow(self.store, snapshot)
        if cap is not None:
            for turn, history in zip(stored, snapshot.histories[len(keys) :], strict=True):
                turn.asked.capped = cap.reached(loaded.rows[history.items], history.times, turn.time)
        for turn, history in zip(stored, snapshot.histories[: len(keys)], strict=True):
            turn.items, turn.times = loaded.rows[history.items], history.times
            turn.asked.history = turn.items
            if not turn.query.keep_seen:
                turn.asked.seen = loaded.rows[history.seen]

    def _narrow(self, loaded: Loaded, turn: _Turn) -> None:
        """The filters of a question, in rows. After `catch_up`, so that they know the newest fields."""
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
            asked.ranker = loaded.ranker.scorer(self._asker(loaded.ranker, turn))
        if loaded.pre_ranker is not None:
            asked.pre_ranker = loaded.pre_ranker.scorer(self._asker(loaded.pre_ranker, turn))
        if loaded.tally is not None:
            asked.outcomes = loaded.tally.as_of(turn.time)

    def _asker(self, ranker: LiveRanker, turn: _Turn) -> Asker:
        """Who asks, for the ranker. A question about the future is answered as of now: windows do not slide back.

        Without a time of its own a question comes after all acknowledged events, those of this millisecond too.
        """
        query, clock = turn.query, self.store.clock()
        now = clock + 1 if query.time is None else min(query.time, clock)
        if query.items is not None:
            return Asker(0, now, query.context, turn.items)
        return Asker(ranker.user_row(query.user, query.session), now, query.context)

    def _encode(self, loaded: Loaded, turns: Sequence[_Turn]) -> None:
        """Give questions their user vectors; those in a hurry first, as far as their time allows for it."""
        hurried = sorted([turn for turn in turns if turn.query.deadline_ms is not None], key=_deadline)
        for _, group in groupby(hurried, _deadline):
            self._encode_in_time(loaded, list(group))
        patient = [turn for turn in turns if turn.query.deadline_ms is None] if hurried else turns
        if patient:
            _take(loaded, patient, loaded.members.encode([turn.question for turn in patient]))

    def _encode_in_time(self, loaded: Loaded, turns: Sequence[_Turn]) -> None:
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

    def _check_ids(self, name: str, ids: Sequence[str] | None) -> None:
        if ids and len(ids) > self.settings.max_items:
            raise QueryError(f"{name}: {len(ids)} ids, at most {self.settings.max_items} are taken", "send fewer")

    def _check_k(self, k: int) -> None:
        if not 1 <= k <= self.settings.max_k:
            raise QueryError(f"k = {k}", f"choose 1 to {self.settings.max_k}")


def _deadline(turn: _Turn) -> float:
    return turn.query.deadline_ms or 0.0


def _take(loaded: Loaded, turns: Sequence[_Turn], encoded: Encoded) -> None:
    """Give questions their vectors, and what was counted adds to the scores."""
    for turn, vector in zip(turns, encoded.vectors, strict=True):
        turn.asked.vector, turn.encoded = vector, encoded
        if vector is not None and loaded.tables:
            begun = perf_counter()
            turn.asked.extra = loaded.gained(turn.items)
            turn.counts_us = (perf_counter() - begun) * 1e6


def _signed(ranking: Ranking, loaded: Loaded, encoded: Encoded | None = None) -> Ranking:
    """The answer with the name and the version of the bundle that gave it, and who of several models took part."""
    name, version = loaded.bundle.name, loaded.bundle.version
    if encoded is None or not loaded.members.are_several:
        return msgspec.structs.replace(ranking, model=name, version=version)
    left_out = dict(encoded.left_out) or None
    members = () if ranking.source == "popular" else encoded.names
    return msgspec.structs.replace(ranking, model=name, version=version, members=members, left_out=left_out)


def _set_due(loaded: Loaded, turns: Sequence[_Turn], started: float) -> None:
    """When each question must be done, so that the whole batch, which is answered together, is in time."""
    for turn in turns:
        query = turn.query
        if query.deadline_ms is not None:
            due = started + query.deadline_ms * 1e-3 if query.due is None else query.due
            turn.asked.due = due - (len(turns) - 1) * loaded.cascade.costs.expected("question")


def _before(turn: _Turn, state_us: float, encode_us: float) -> Trace:
    """The stages before the cascade: events read from the state, those that the model knows, and items with counts."""
    known = int(np.count_nonzero(turn.items))
    encoded, extra = int(turn.asked.vector is not None), turn.asked.extra
    encode_us = max(encode_us - turn.counts_us, 0.0)
    stages = Stage("state", len(turn.items), known, state_us), Stage("encode", known, encoded, encode_us)
    return stages if extra is None else (*stages, Stage("counts", known, len(extra.rows), turn.counts_us))
