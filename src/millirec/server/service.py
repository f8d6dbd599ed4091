"""`Service`: the one open engine of a worker, and whether it may be asked just now."""

import asyncio
import gc
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from secrets import token_hex

import msgspec

from millirec import bundle as bundles
from millirec.cascade.query import Query, Ranking
from millirec.data.errors import ArtifactError, MillirecError
from millirec.data.event import Record
from millirec.data.history import HistoryLimits
from millirec.engine.engine import Engine
from millirec.engine.impressions import Impression, ImpressionLog
from millirec.engine.loaded import Loaded
from millirec.engine.state import StateStore, StoreSettings
from millirec.server.bundles import Bundles
from millirec.server.deployment import Deployment
from millirec.server.fault import not_ready, stopping, too_many
from millirec.server.monitor import Monitor
from millirec.server.report import PARENT, Report
from millirec.server.settings import ServerSettings
from millirec.server.turn import Turn
from millirec.server.wire import RankedResponse, RankRequest, RecommendRequest, StageEvent, milliseconds, scored

_SWEEP_SECONDS = 3600
_encode = msgspec.json.Encoder().encode


class Service:
    """Opened in the background, so that /health/live answers from the first moment.

    `on_ready(model, version)` is called once the engine is open and warm, `on_failure(error)` when it cannot be. `send`
    reports to a supervisor, None when there is none.
    """

    def __init__(
        self,
        settings: ServerSettings,
        on_ready: Callable[[str, str], None],
        on_failure: Callable[[BaseException], None],
        send: Callable[[Report], None] | None = None,
    ) -> None:
        self.settings, self.monitor = settings, Monitor()
        self.in_flight, self.is_stopping = 0, False
        self.model = self.version = ""
        self._on_ready, self._on_failure = on_ready, on_failure
        self.on_start: Callable[[], None] = lambda: None
        self.bundles = Bundles(settings.deployments(), self._prepare, self._serve, send)
        self._engine: Engine | None = None
        self._impressions: ImpressionLog | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.pid, parent = os.getpid(), os.environ.get(PARENT)
        self.parent = int(parent) if parent else None

    @property
    def is_ready(self) -> bool:
        """Whether questions are answered."""
        return self._engine is not None and not self.is_stopping

    @property
    def engine(self) -> Engine:
        """The open engine. Raises `Fault` 503 before that."""
        if self._engine is None:
            raise not_ready()
        return self._engine

    def start(self) -> None:
        """Open the engine in a thread; count what was noted every second."""
        self.on_start()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._open()), loop.create_task(self._tick())]
        if self.settings.expire_after_days is not None:
            self._tasks.append(loop.create_task(self._sweep()))

    async def stop(self) -> None:
        """Commit what is pending and close. No answer is given after this."""
        self.is_stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.monitor.stopped()
        self.monitor.flush(0)
        engine, self._engine = self._engine, None
        if engine is not None:
            await asyncio.to_thread(engine.close)
        if self._impressions is not None:
            await asyncio.to_thread(self._impressions.close)

    async def _open(self) -> None:
        try:
            if self.settings.impressions is not None:
                self._impressions = ImpressionLog(Path(self.settings.data) / "impressions", self.settings.impressions)
        except MillirecError as error:
            self._on_failure(error)
            return
        opening = asyncio.get_running_loop().run_in_executor(None, open_engine, self.settings)
        try:
            engine = await asyncio.shield(opening)
        except asyncio.CancelledError:
            engine = await opening
            engine.close()
            raise
        except BaseException as error:
            self._on_failure(error)
            return
        self.turn = Turn(asyncio.get_running_loop(), self._answer, self.settings.max_batch, self.monitor.batch)
        self.model, self.version = engine.bundle.name, engine.bundle.version
        self._engine = engine
        known = self.bundles.state
        self.bundles.state = known.opened(self.model, self.version, known.serves.since or int(time.time() * 1000))
        self.monitor.ready(self.model, self.version)
        self._on_ready(self.model, self.version)

    def _prepare(self, to: Deployment) -> Loaded:
        """The next bundle, open and warm, while the old one answers."""
        engine = self.engine
        bundle = bundles.open_bundle(Path(to.bundle))
        if to.version and bundle.version != to.version:
            raise ArtifactError(
                f"{to.bundle}: holds version {bundle.version} now, what served was {to.version}",
                "name the folder in POST /bundles to serve what it holds",
            )
        loaded = engine.prepare(bundle, to.cascade)
        warm_up(engine, self.settings.max_batch, loaded)
        _settle_memory()
        return loaded

    def _serve(self, loaded: Loaded) -> None:
        """Every answer from now on is the new bundle's."""
        self.engine.serve(loaded)
        old = self.model, self.version
        self.model, self.version = loaded.bundle.name, loaded.bundle.version
        self.monitor.swapped(old, (self.model, self.version))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.monitor.flush(self.in_flight)
            if self._engine is not None and self._engine.reads_log:  # else a worker that rests must read much at once
                await asyncio.to_thread(self._engine.follow)

    async def _sweep(self) -> None:
        """Expired states count as empty at once; this gives their room back."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            if self._engine is not None:
                await asyncio.to_thread(self._engine.store.sweep)

    def enter(self) -> None:
        """Admit one more request, or raise `Fault` 429 or 503."""
        if self.in_flight >= self.settings.max_in_flight:
            raise too_many(self.settings.max_in_flight)
        if self._engine is None:
            raise stopping() if self.is_stopping else not_ready()
        self.in_flight += 1

    def leave(self) -> None:
        """A request was answered or failed."""
        self.in_flight -= 1

    async def submit(self, records: Sequence[Record]) -> int:
        """Give records to the group commit; returns how many are durable."""
        accepted = await asyncio.wrap_future(self.engine.submit(records))
        self.monitor.accepted.inc(accepted)
        return accepted

    def _answer(self, queries: Sequence[Query]) -> Sequence[Ranking | MillirecError]:
        return self.engine.recommend_many(queries)

    def request_id(self) -> str | None:
        """A name for a call that brings none, where impressions are logged under it."""
        return None if self._impressions is None else token_hex(12)

    def shown(self, request: RecommendRequest | RankRequest, ranking: Ranking, k: int | None = None) -> None:
        """Log the first `k` of a ranking as shown, where impressions are logged."""
        if self._impressions is None:
            return
        impression = Impression.of(
            ranking,
            k,
            (ranking.model, ranking.version),
            time=milliseconds(request.timestamp, int(time.time() * 1000)),
            user=request.user,
            session=request.session,
            context=request.context,
        )
        self.monitor.impression(kept=self._impressions.note(impression))

    def ranked(
        self,
        ranking: Ranking,
        started: float,
        k: int | None = None,
        *,
        explain: bool = False,
        trace: bool = False,
        final: bool | None = None,
    ) -> bytes:
        """The JSON of a ranking; its trace goes to the monitor. `final`: of a stream, whether it is the last."""
        if final is not False:
            self.monitor.ranking(ranking)
        items = scored(ranking, k, explain)
        took = round((time.perf_counter() - started) * 1e3, 3)
        stages = ranking.trace if trace else None
        told = (
            *(took, ranking.model, ranking.version, items, stages, ranking.request_id, ranking.stage),
            *(ranking.members, ranking.left_out),
        )
        return _encode(RankedResponse(*told) if final is None else StageEvent(*told, final=final))


def open_engine(settings: ServerSettings) -> Engine:
    """The engine over a bundle and a data folder, warm: every batch size was asked for once."""
    serves = settings.deployments().serves
    bundle = bundles.open_bundle(Path(serves.bundle))
    limits = HistoryLimits().covering(bundle.max_length)
    store = StateStore(Path(settings.data), StoreSettings(limits=limits, expire_after_days=settings.expire_after_days))
    try:
        engine = Engine(bundle, store, settings.engine, serves.cascade)
        warm_up(engine, settings.max_batch)
    except BaseException:
        store.close()
        raise
    _settle_memory()
    gc.set_threshold(20_000, 50, 100)
    return engine


def _settle_memory() -> None:
    """What is there now stays: the collector need not walk through it again and again."""
    gc.collect()
    gc.freeze()


def warm_up(engine: Engine, largest: int, loaded: Loaded | None = None) -> None:
    """Ask with histories of one item and of full length, in batches of 1, 2, 4 ... `largest`.

    `loaded`: what was prepared and does not serve yet.
    """
    bundle = engine.bundle if loaded is None else loaded.bundle
    ids = bundle.catalog.vocabulary.ids
    length = min(bundle.max_length, len(ids))
    size = 1
    while size <= largest:
        engine.recommend_many([Query(items=ids[:1])] * size, loaded)
        engine.recommend_many([Query(items=ids[:length])] * size, loaded)
        size *= 2
