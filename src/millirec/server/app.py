"""The ASGI application: the hot addresses by one dictionary look-up, the rest through Starlette."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from millirec.server.administration import BUNDLES, Administration
from millirec.server.asgi import WORKER
from millirec.server.fault import Fault, fault_of, no_route
from millirec.server.openapi import document
from millirec.server.pages import docs_page
from millirec.server.routes import Similar, operations, post_routes
from millirec.server.service import Service
from millirec.server.wire import Health

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


class Application:
    """What uvicorn calls. POST requests to known addresses skip Starlette's router and middleware."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._posts = post_routes(service)
        self._rest = _starlette(service, self._posts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            post = self._posts.get(scope["path"])
            if post is not None:
                await post(scope, receive, send)
                return
        await self._rest(scope, receive, send)


def _starlette(service: Service, posts: dict[str, ASGIApp]) -> Starlette:
    cold = _Cold(service)
    shown: list[Route] = []
    if service.settings.bundles is not None:  # a class of its own: Starlette takes bound methods for plain functions
        shown = [Route(BUNDLES.path, _Shown(Administration(service)), methods=["GET", "POST"])]
    app = Starlette(
        routes=[
            *shown,
            *(Route(path, post, methods=["POST"]) for path, post in posts.items()),
            Route("/items/{id:path}/similar", Similar(service), methods=["GET"]),
            Route("/health/live", cold.live),
            Route("/health/ready", cold.ready),
            Route("/metrics", cold.metrics),
            Route("/openapi.json", cold.openapi),
            Route("/docs", cold.docs),
            Route("/", cold.root),
        ],
        exception_handlers={HTTPException: _refused, Exception: _failed},
        lifespan=cold.lifespan,
    )
    app.router.redirect_slashes = False
    return app


class _Shown:
    """GET /bundles as an ASGI application."""

    def __init__(self, administration: Administration) -> None:
        self._administration = administration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._administration.show(scope, receive, send)


class _Cold:
    """The addresses that nobody calls a thousand times a second."""

    def __init__(self, service: Service) -> None:
        self._service = service
        known = operations(service)
        spec = document(known)
        self._openapi, self._docs = msgspec.json.encode(spec), docs_page(known, spec)

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._service.start()
        try:
            yield
        finally:
            await self._service.stop()

    def _health(self, status: str, code: int) -> Response:
        service = self._service
        health = Health(status, service.pid, service.parent, service.model or None, service.version or None)
        return _json(msgspec.json.encode(health), code)

    async def live(self, _: Request) -> Response:
        return self._health("live", 200)

    async def ready(self, _: Request) -> Response:
        if self._service.is_ready:
            return self._health("ready", 200)
        return self._health("stopping" if self._service.is_stopping else "opening", 503)

    async def metrics(self, _: Request) -> Response:
        text = self._service.monitor.render(self._service.in_flight)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    async def openapi(self, _: Request) -> Response:
        return _json(self._openapi)

    async def docs(self, _: Request) -> Response:
        return HTMLResponse(self._docs, headers={"content-security-policy": _POLICY})

    async def root(self, _: Request) -> Response:
        return RedirectResponse("/docs")


def _json(body: bytes, status: int = 200) -> Response:
    worker = {WORKER[0].decode(): WORKER[1].decode()}
    return Response(body, status, media_type="application/json", headers=worker)


async def _refused(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such address, or another method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        allow = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))  # type: ignore[attr-defined]
        fault = Fault(
            405,
            "method_not_allowed",
            f"{request.method} does not fit {request.url.path[:200]}",
            f"use {allow}",
        )
        answer = _json(fault.body, 405)
        answer.headers["allow"] = allow
        return answer
    fault = no_route(request.url.path)
    return _json(fault.body, fault.status)


async def _failed(_: Request, error: Exception) -> Response:
    fault = fault_of(error)
    return _json(fault.body, fault.status)
