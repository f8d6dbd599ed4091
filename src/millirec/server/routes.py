"""The addresses of the server and what each does. The table `OPERATIONS` also makes OpenAPI and `/docs`."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from millirec.server import wire
from millirec.server.administration import BUNDLES, ROLLBACK, SWAP, Administration
from millirec.server.asgi import read_json_body, send_fault, send_json
from millirec.server.fault import Disconnected, Fault, bad_k, fault_of
from millirec.server.operation import POST_ERRORS as _POST
from millirec.server.operation import Operation
from millirec.server.service import Service
from millirec.server.stream import STREAM, Stream

_encode = msgspec.json.Encoder().encode
_NOOP = _encode(wire.NoopResponse())
_GONE = 499  # nginx's word for a client that went away; only metrics show it


_EVENT = '{"event": "interaction", "user": "u1", "item": "318", "type": "rating", "value": 4.5}'
OPERATIONS = (
    Operation(
        "POST", "/feedback", "Take in one event or a list of events; answers when they are durable.",
        wire.FeedbackResponse, wire.FeedbackRequest, _EVENT, _POST,
    ),
    Operation(
        "POST", "/recommend", "Recommend items to a user, to a session, or for a history given in the call.",
        wire.RankedResponse, wire.RecommendRequest, '{"user": "u1", "k": 5, "trace": true}', _POST,
    ),
    STREAM,
    Operation(
        "POST", "/rank", "Rank the caller's own candidates.",
        wire.RankedResponse, wire.RankRequest, '{"user": "u1", "candidates": ["318", "260", "1"]}', _POST,
    ),
    Operation(
        "GET", "/items/{id}/similar", "Items like this one; `k` in the query string, 10 when absent.",
        wire.RankedResponse, errors=(404, 422, 429, 503), example="/items/318/similar?k=5",
    ),
    Operation("GET", "/health/live", "The process runs.", wire.Health, example="/health/live"),
    Operation(
        "GET", "/health/ready", "The model is open and warm.", wire.Health, errors=(503,), example="/health/ready"
    ),
    Operation("GET", "/metrics", "Metrics in Prometheus' text format.", str, example="/metrics"),
)  # fmt: skip
NOOP = Operation(
    "POST", "/noop", "The benchmark's yardstick: decodes a /recommend request, answers a fixed body.",
    wire.NoopResponse, wire.RecommendRequest, '{"user": "u1", "k": 5}', _POST,
)  # fmt: skip

Handler = Callable[[Any, float], Awaitable[bytes]]


class Post:
    """A POST route as a bare ASGI application: JSON in, JSON out, errors as JSON."""

    def __init__(self, operation: Operation, service: Service, handler: Handler) -> None:
        self._path, self._service, self._handler = operation.path, service, handler
        self._decode = msgspec.json.Decoder(operation.request).decode
        self._limit = service.settings.body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        service, status = self._service, 200
        try:
            service.enter()
            try:
                body = await read_json_body(scope, receive, self._limit)
                answer = await self._handler(self._decode(body), started)
            finally:
                service.leave()
            await send_json(send, 200, answer)
        except Disconnected:
            status = _GONE
        except Exception as error:
            fault = fault_of(error)
            status = fault.status
            await send_fault(send, fault)
        service.monitor.request(self._path, status, time.perf_counter() - started)


class Similar:
    """GET /items/{id}/similar as a bare ASGI application."""

    path = "/items/{id}/similar"

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        service, status = self._service, 200
        try:
            service.enter()
            try:
                item, k = scope["path_params"]["id"], _k(scope["query_string"].decode("latin-1"))
                ranking = service.engine.similar(item, k)
                answer = service.ranked(ranking, started)
            finally:
                service.leave()
            await send_json(send, 200, answer)
        except Exception as error:
            fault = fault_of(error)
            status = fault.status
            await send_fault(send, fault)
        service.monitor.request(self.path, status, time.perf_counter() - started)


def _k(query: str) -> int:
    if not query:
        return 10
    name, _, value = query.partition("=")
    if name != "k":
        raise Fault(
            422,
            "unknown_field",
            f"the query string is {query[:80]!r}",
            "only `k` is known here",
            f"$.{name[:40]}",
        )
    if not (value.isascii() and value.isdecimal() and len(value) < 6 and 1 <= int(value) <= wire.MAX_K):
        raise bad_k(value)
    return int(value)


class Answers:
    """What the POST routes do: from a decoded request to the bytes of the answer."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def feedback(self, request: wire.FeedbackRequest, _: float) -> bytes:
        """Durable first, then acknowledged."""
        now = int(time.time() * 1000)
        return _encode(wire.FeedbackResponse(await self._service.submit(wire.records(request, now))))

    async def recommend(self, request: wire.RecommendRequest, started: float) -> bytes:
        """One question among those of this loop turn."""
        arrived = self._service.turn.arrival(started)
        ranking = await self._service.turn.ask(wire.query_of(request, self._service.request_id(), arrived))
        self._service.shown(request, ranking)
        return self._service.ranked(ranking, started, explain=request.explain, trace=request.trace)

    async def rank(self, request: wire.RankRequest, started: float) -> bytes:
        """The caller's candidates; the model's own retrieval is left out."""
        arrived = self._service.turn.arrival(started)
        ranking = await self._service.turn.ask(wire.rank_query_of(request, self._service.request_id(), arrived))
        self._service.shown(request, ranking, request.k)
        return self._service.ranked(ranking, started, request.k, explain=request.explain, trace=request.trace)

    async def noop(self, _request: wire.RecommendRequest, _: float) -> bytes:
        """What HTTP and JSON cost by themselves."""
        return _NOOP


def post_routes(service: Service) -> dict[str, ASGIApp]:
    """Address -> application, for every POST."""
    answers = Answers(service)
    handlers: dict[str, Handler] = {
        "/feedback": answers.feedback,
        "/recommend": answers.recommend,
        "/rank": answers.rank,
        "/noop": answers.noop,
    }
    out: dict[str, ASGIApp] = {
        op.path: Post(op, service, handlers[op.path])
        for op in operations(service)
        if op.method == "POST" and op.path in handlers
    }
    out[STREAM.path] = Stream(service)
    if service.settings.bundles is not None:
        administration = Administration(service)
        out |= {SWAP.path: administration.swap, ROLLBACK.path: administration.rollback}
    return out


def operations(service: Service) -> tuple[Operation, ...]:
    """The addresses that this server has."""
    administrative = (BUNDLES, SWAP, ROLLBACK) if service.settings.bundles is not None else ()
    return (*OPERATIONS, *administrative, *((NOOP,) if service.settings.yardstick else ()))
