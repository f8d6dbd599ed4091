"""Natural batches with the real engine; and a service that is not ready, or stops."""

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import httpx
import pytest

from millirec.bundle import open_bundle
from millirec.cascade.query import Query
from millirec.data.errors import QueryError, UnavailableError
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore
from millirec.server.app import Application
from millirec.server.fault import fault_of
from millirec.server.service import Service
from millirec.server.settings import ServerSettings
from millirec.server.turn import Turn


def turn_of(engine: Engine, largest: int = 64) -> tuple[Turn, list[int]]:
    sizes: list[int] = []

    def answer(queries: Sequence[Query]):
        return engine.recommend_many(queries)

    return Turn(asyncio.get_running_loop(), answer, largest, sizes.append), sizes


@pytest.fixture
def engine(bundle: Path):
    engine = Engine(open_bundle(bundle), StateStore.temporary())
    yield engine
    engine.close()


def test_one_turn_is_one_batch_and_answers_go_to_their_askers(engine: Engine) -> None:
    queries = [Query(items=(f"i{n}",), k=5) for n in range(1, 41)]

    async def run() -> list[int]:
        turn, sizes = turn_of(engine)
        rankings = await asyncio.gather(*(turn.ask(query) for query in queries))
        alone = await turn.ask(queries[0])
        assert alone.items == rankings[0].items
        for query, ranking in zip(queries, rankings, strict=True):
            assert ranking.items == engine.recommend(query).items
        return sizes

    assert asyncio.run(run()) == [40, 1]


def test_large_turns_are_cut(engine: Engine) -> None:
    async def run() -> list[int]:
        turn, sizes = turn_of(engine, largest=8)
        await asyncio.gather(*(turn.ask(Query(items=("i1",))) for _ in range(20)))
        return sizes

    assert asyncio.run(run()) == [8, 8, 4]


def test_an_error_spoils_only_its_own_question(engine: Engine) -> None:
    async def run() -> list[object]:
        turn, _ = turn_of(engine)
        bad = Query(items=("i1",), where={"colour": "red"})
        good = Query(items=("i1",), k=3)
        return await asyncio.gather(turn.ask(good), turn.ask(bad), turn.ask(good), return_exceptions=True)

    first, second, third = asyncio.run(run())
    assert first.items == third.items
    assert isinstance(second, QueryError)


def test_who_has_gone_away_is_left_out(engine: Engine) -> None:
    async def run() -> list[int]:
        turn, sizes = turn_of(engine)
        gone, stays = turn.ask(Query(items=("i1",))), turn.ask(Query(items=("i2",)))
        gone.cancel()
        await stays
        alone = turn.ask(Query(items=("i1",)))
        alone.cancel()
        await asyncio.sleep(0.01)
        return sizes

    assert asyncio.run(run()) == [1]


def test_what_came_in_while_a_batch_was_computed_arrived_then(engine: Engine) -> None:
    """A byte comes in during a batch; when it is read, its arrival is put before the batch began."""

    async def run() -> tuple[float, float, float, float]:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        noticed: asyncio.Future[tuple[float, float]] = loop.create_future()

        begun: list[float] = []

        def answer(queries: Sequence[Query]):
            begun.append(perf_counter())
            theirs.send(b"!")
            return engine.recommend_many(queries)

        def read() -> None:
            loop.remove_reader(ours)
            loop.call_soon(handle)  # a server's task runs a turn after its bytes are read

        def handle() -> None:
            now = perf_counter()
            noticed.set_result((now, turn.arrival(now)))

        turn = Turn(loop, answer, 64, lambda _: None)
        loop.add_reader(ours, read)
        asked = perf_counter()
        await turn.ask(Query(items=("i1",)))
        now, arrival = await noticed
        for end in (ours, theirs):
            end.close()
        for _ in range(5):
            await asyncio.sleep(0)
        later = perf_counter()
        assert turn.arrival(later) == later
        return asked, arrival, begun[0], now

    asked, arrival, began, now = asyncio.run(run())
    assert asked < arrival < began < now


def test_batches_on_end_do_not_pile_up_in_arrivals(engine: Engine) -> None:
    async def run() -> list[tuple[float, float]]:
        begins: list[float] = []

        def answer(queries: Sequence[Query]):
            begins.append(perf_counter())
            return engine.recommend_many(queries)

        turn = Turn(asyncio.get_running_loop(), answer, 1, lambda _: None)
        assert turn.arrival(7.0) == 7.0
        futures = [turn.ask(Query(items=("i1",))) for _ in range(6)]
        out = []
        for future in futures:
            await future
            out.append((turn.arrival(perf_counter()), begins[-3] if len(begins) > 2 else 0.0))
        return out

    for arrival, two_before in asyncio.run(run()):
        assert arrival > two_before


def test_not_ready_and_stopping(bundle: Path, tmp_path: Path) -> None:
    """The real application, asked before its engine is open, then open, then stopping."""

    async def run() -> None:
        opened = asyncio.Event()
        failures: list[BaseException] = []
        settings = ServerSettings(bundle=str(bundle), data=str(tmp_path / "data"))
        service = Service(settings, lambda *_: opened.set(), failures.append)
        transport = httpx.ASGITransport(Application(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:

            async def status(path: str) -> tuple[int, str]:
                answer = await (client.get(path) if "health" in path else client.post(path, json={}))
                said = answer.json()
                return answer.status_code, said.get("status") or said.get("error", {}).get("code", "ok")

            assert await status("/health/live") == (200, "live")
            assert await status("/health/ready") == (503, "opening")
            assert await status("/recommend") == (503, "not_ready")
            service.start()
            await asyncio.wait_for(opened.wait(), 30)
            assert await status("/health/ready") == (200, "ready")
            assert await status("/recommend") == (200, "ok")
            service.is_stopping = True
            assert await status("/health/ready") == (503, "stopping")
            assert await status("/recommend") == (200, "ok")  # in-flight requests still end
            await service.stop()
            assert await status("/recommend") == (503, "stopping")
        assert failures == []

    asyncio.run(run())


def test_a_stop_while_the_bundle_opens(bundle: Path, tmp_path: Path) -> None:
    async def run() -> None:
        settings = ServerSettings(bundle=str(bundle), data=str(tmp_path / "data"))
        service = Service(settings, lambda *_: None, lambda _: None)
        service.start()
        await asyncio.sleep(0.01)
        await service.stop()
        assert not service.is_ready

    asyncio.run(run())
    with StateStore.temporary() as store:
        assert store.names() == []


def test_what_cannot_be_served_now_is_a_503_and_what_fails_a_500(caplog: pytest.LogCaptureFixture) -> None:
    fault = fault_of(UnavailableError("too many records wait", "send them again later"))
    assert (fault.status, fault.retry) == (503, True)
    secret = fault_of(RuntimeError("a secret path"))
    assert secret.status == 500
    assert b"secret" not in secret.body
    assert "a secret path" in caplog.text
