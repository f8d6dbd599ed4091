"""`POST /recommend/stream`: the list of each stage as a server-sent event, as soon as it is there."""

import asyncio
import time
from collections.abc import Iterator

import msgspec
from starlette.types import Receive, Scope, Send

from millirec.cascade.query import Ranking
from millirec.server import wire
from millirec.server.asgi import WORKER, read_json_body, send_fault
from millirec.server.fault import Disconnected, fault_of
from millirec.server.operation import POST_ERRORS, Operation
from millirec.server.service import Service

STREAM = Operation(
    "POST", "/recommend/stream", "As /recommend, stage by stage: server-sent events, the last of which is final.",
    wire.StageEvent, wire.RecommendRequest, '{"user": "u1", "k": 5}', POST_ERRORS, kind="text/event-stream",
)  # fmt: skip
_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would keep the events until the end
    WORKER,
]
_GONE = 499
_TURNS = 3  # of the loop: what lies in the socket is read, and its task runs


class Stream:
    """The route as a bare ASGI application."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._decode = msgspec.json.Decoder(wire.RecommendRequest).decode
        self._limit = service.settings.body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        service, status, begun = self._service, 200, False
        try:
            service.enter()
            try:
                request = self._decode(await read_json_body(scope, receive, self._limit))
                arrived = service.turn.arrival(started)
                stages = service.engine.stream(wire.query_of(request, service.request_id(), arrived))
                first = next(stages)  # what is wrong with the question shows here, before anything is sent
                begun = True
                await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                await self._send_all(request, first, stages, started, receive, send)
            finally:
                service.leave()
            await send({"type": "http.response.body", "body": b""})
        except Disconnected:
            status = _GONE
        except Exception as error:
            fault = fault_of(error)
            status = fault.status
            if begun:
                await send({"type": "http.response.body", "body": _event(b"error", fault.body)})
            else:
                await send_fault(send, fault)
        service.monitor.request(STREAM.path, status, time.perf_counter() - started)

    async def _send_all(
        self,
        request: wire.RecommendRequest,
        first: tuple[Ranking, bool],
        rest: Iterator[tuple[Ranking, bool]],
        started: float,
        receive: Receive,
        send: Send,
    ) -> None:
        """One event for each stage. Raises Disconnected when the client goes away: no further stage is begun then."""
        gone = asyncio.ensure_future(receive())
        sent = first[0]
        try:
            ranking, is_last = first
            while True:
                sent = ranking
                body = self._service.ranked(
                    ranking, started, explain=request.explain, trace=request.trace, final=is_last
                )
                await send({"type": "http.response.body", "body": _event(b"stage", body), "more_body": True})
                if is_last:
                    return
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
                if gone.done():
                    raise Disconnected
                ranking, is_last = next(rest)
        finally:
            gone.cancel()
            self._service.shown(request, sent)


def _event(name: bytes, data: bytes) -> bytes:
    return b"event: " + name + b"\ndata: " + data + b"\n\n"
