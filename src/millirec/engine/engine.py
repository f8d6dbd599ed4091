"""`Engine`: observe, recommend, swap. The one place where a bundle meets the state of users."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from time import perf_counter

import msgspec

from millirec.bundle import Bundle
from millirec.cascade.cascade import CascadeConfig
from millirec.cascade.query import Query, Ranking, Stage
from millirec.data.errors import ArtifactError, ConfigError, MillirecError, NotFoundError, QueryError
from millirec.data.event import Record, shown_key
from millirec.engine.loaded import Loaded
from millirec.engine.members import Encoded
from millirec.engine.settings import EngineSettings
from millirec.engine.state import StateStore
from millirec.engine.turn import Turn, check_k, encode, narrow, set_due, turn_of


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
        turns: list[Turn] = []
        started = perf_counter()
        for place, query in enumerate(queries):
            try:
                turns.append(turn_of(loaded, self.settings, self.store.clock, query, place))
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
                narrow(loaded, turn, self.store.clock)
            except MillirecError as error:
                answers[turn.place] = error
        turns = [turn for turn in turns if turn.place not in answers]
        read = perf_counter()
        set_due(loaded, turns, started)
        if loaded.cascade.wants_vector:
            encode(loaded, turns)
        times = ((read - started) * 1e6, (perf_counter() - read) * 1e6)
        for turn in turns:
            turn.asked.before = turn.before(*times)
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
        turn = turn_of(loaded, self.settings, self.store.clock, query)
        self._remember(loaded, [turn])
        narrow(loaded, turn, self.store.clock)
        turn.asked.before = turn.before((perf_counter() - started) * 1e6, 0.0)[:1]
        set_due(loaded, [turn], started)

        def give_vector() -> None:
            begun = perf_counter()
            if loaded.cascade.wants_vector:
                encode(loaded, [turn])
            took = turn.asked.before[0].microseconds, (perf_counter() - begun) * 1e6
            turn.asked.before = turn.before(*took)

        for ranking, is_last in loaded.cascade.stream(turn.asked, give_vector):
            yield _signed(ranking, loaded, turn.encoded), is_last

    def similar(self, item: str, k: int = 10) -> Ranking:
        """The `k` available items whose vectors point most nearly the same way (cosine), best first.

        Raises NotFoundError when the bundle does not know the item, QueryError for a bad `k`.
        """
        check_k(k, self.settings)
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

    def _remember(self, loaded: Loaded, turns: Sequence[Turn]) -> None:
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


def _signed(ranking: Ranking, loaded: Loaded, encoded: Encoded | None = None) -> Ranking:
    """The answer with the name and the version of the bundle that gave it, and who of several models took part."""
    name, version = loaded.bundle.name, loaded.bundle.version
    if encoded is None or not loaded.members.are_several:
        return msgspec.structs.replace(ranking, model=name, version=version)
    left_out = dict(encoded.left_out) or None
    members = () if ranking.source == "popular" else encoded.names
    return msgspec.structs.replace(ranking, model=name, version=version, members=members, left_out=left_out)
