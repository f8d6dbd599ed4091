"""The calls that change what serves. They exist only where `--bundles` names a folder."""

import hmac
import time
from pathlib import Path

import msgspec
from starlette.types import Receive, Scope, Send

from millirec.cascade.cascade import CascadeConfig
from millirec.engine.toml import read
from millirec.server import wire
from millirec.server.asgi import read_json_body, send_fault, send_json
from millirec.server.deployment import Deployment
from millirec.server.fault import Disconnected, Fault, fault_of
from millirec.server.operation import POST_ERRORS, Operation
from millirec.server.service import Service

_ERRORS = (*POST_ERRORS, 401, 409)
SWAP = Operation(
    "POST", "/bundles", "Answer from another bundle, another cascade, or both; answers when every worker does.",
    wire.BundlesResponse, wire.SwapRequest, '{"path": "sasrec-2024-05-02"}', _ERRORS, "swap",
)  # fmt: skip
ROLLBACK = Operation(
    "POST", "/bundles/rollback", "Answer again from what served before; answers when every worker does.",
    wire.BundlesResponse, wire.RollbackRequest, "{}", _ERRORS, "rollback",
)  # fmt: skip
BUNDLES = Operation(
    "GET", "/bundles", "What serves, what served before, and what there is to choose from.",
    wire.BundlesResponse, errors=(401, 503), example="/bundles",
)  # fmt: skip
_COLON = "bearer "


class Administration:
    """The three calls as bare ASGI applications."""

    def __init__(self, service: Service) -> None:
        settings = service.settings
        assert settings.bundles is not None  # noqa: S101
        self._service, self._folder = service, Path(settings.bundles)
        self._token, self._limit = settings.admin_token, settings.body_bytes
        self._workers = settings.workers
        self._decode_swap = msgspec.json.Decoder(wire.SwapRequest).decode
        self._decode_rollback = msgspec.json.Decoder(wire.RollbackRequest).decode

    async def swap(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /bundles."""
        await self._answer(SWAP, scope, receive, send)

    async def rollback(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /bundles/rollback."""
        await self._answer(ROLLBACK, scope, receive, send)

    async def show(self, scope: Scope, receive: Receive, send: Send) -> None:
        """GET /bundles."""
        await self._answer(BUNDLES, scope, receive, send)

    async def _answer(self, operation: Operation, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        service, status = self._service, 200
        try:
            service.enter()
            try:
                self._check(scope)
                if operation is not BUNDLES:
                    await self._change(operation, await read_json_body(scope, receive, self._limit))
                body = msgspec.json.encode(self._told(started))
            finally:
                service.leave()
            await send_json(send, 200, body)
        except Disconnected:
            status = 499
        except Exception as error:
            fault = fault_of(error)
            status = fault.status
            await send_fault(send, fault)
        service.monitor.request(operation.path, status, time.perf_counter() - started)

    async def _change(self, operation: Operation, body: bytes) -> None:
        if operation is ROLLBACK:
            self._decode_rollback(body or b"{}")
            await self._service.bundles.change(None)
        else:
            await self._service.bundles.change(self._wanted(self._decode_swap(body)))

    def _check(self, scope: Scope) -> None:
        """Raises `Fault` 401 for a call that does not bring the token."""
        if self._token is None:
            return
        for name, value in scope["headers"]:
            if name == b"authorization" and value[: len(_COLON)].lower() == _COLON.encode():
                if hmac.compare_digest(value[len(_COLON) :].strip(), self._token.encode()):
                    return
                break
        raise Fault(
            401,
            "unauthorized",
            "this call needs the server's token",
            "send the header `authorization: Bearer TOKEN`, with what MILLIREC_ADMIN_TOKEN was when the server started",
        )

    def _wanted(self, request: wire.SwapRequest) -> Deployment:
        """What a request asks for; what it leaves out stays as it is."""
        now = self._service.bundles.state.serves
        bundle = now.bundle if request.path is msgspec.UNSET else str(self._below("path", request.path))
        if request.cascade is msgspec.UNSET:
            return Deployment(bundle=bundle, cascade=now.cascade, cascade_file=now.cascade_file)
        if request.cascade is None:
            return Deployment(bundle=bundle)
        file = self._below("cascade", request.cascade)
        cascade = read(file, CascadeConfig, request.cascade, "see docs/cascade.md for the fields")
        return Deployment(bundle=bundle, cascade=cascade, cascade_file=request.cascade)

    def _below(self, field: str, name: str) -> Path:
        """A path below the folder of bundles. Raises `Fault` 422 for one that is not there, or leads out of it."""
        folder = self._folder.resolve()
        try:
            path = (folder / name).resolve()
            is_there = path != folder and path.is_relative_to(folder) and path.exists()
        except (OSError, ValueError):  # too long, or a zero byte
            is_there = False
        if not is_there:
            raise Fault(
                422,
                "invalid_field",
                f"{name[:100]!r} is not in the folder of bundles",
                "name something below the folder of `serve --bundles`; GET /bundles lists what there is",
                f"$.{field}",
            )
        return path

    def _told(self, started: float) -> wire.BundlesResponse:
        state = self._service.bundles.state
        folder = self._folder.resolve()
        try:
            there = sorted(path.name for path in folder.iterdir() if (path / "manifest.json").is_file())
        except OSError:
            there = []
        return wire.BundlesResponse(
            took_ms=round((time.perf_counter() - started) * 1e3, 3),
            workers=self._workers,
            serves=_deployed(state.serves, folder),
            before=[_deployed(one, folder) for one in state.before],
            there=there,
        )


def _deployed(one: Deployment, folder: Path) -> wire.Deployed:
    path = Path(one.bundle)
    shown = str(path.relative_to(folder)) if path.is_relative_to(folder) else one.bundle
    cascade = one.cascade_file or (None if one.cascade is None else "given at the start")
    return wire.Deployed(shown, one.model, one.version, one.since, cascade)
