"""Bytes in and out of ASGI, without request and response objects on the hot way."""

import os

from starlette.types import Receive, Scope, Send

from millirec.server.fault import Disconnected, Fault, not_json, too_large

_DRAIN = 8  # how many times the limit of a refused body is still read, so that the client gets its 413
_JSON = (b"content-type", b"application/json")
_CLOSE = (b"connection", b"close")
_WHO = (b"www-authenticate", b"Bearer")
_RETRY = (b"retry-after", b"1")
WORKER = (b"x-worker", str(os.getpid()).encode())


async def read_json_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body of a request, at most `limit` bytes, chunked or not.

    Raises `Fault` 413 or 415, and `Disconnected` when the client goes away.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limit:
            await _drain(receive, limit * _DRAIN)
            raise too_large(limit)
        if name == b"content-type" and not value.lower().startswith(b"application/json"):
            raise not_json(value.decode("latin-1")[:100])
    message = await receive()
    if message["type"] == "http.request" and not message["more_body"]:
        body: bytes = message["body"]
        if len(body) > limit:
            raise too_large(limit)
        return body
    return await _read_chunks(message, receive, limit)


async def _read_chunks(message: Scope, receive: Receive, limit: int) -> bytes:
    chunks, size = [], 0
    while True:
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunks.append(message["body"])
        size += len(message["body"])
        if size > limit:
            if message["more_body"]:
                await _drain(receive, limit * _DRAIN)
            raise too_large(limit)
        if not message["more_body"]:
            return b"".join(chunks)
        message = await receive()


async def _drain(receive: Receive, most: int) -> None:
    """Read and forget, up to a bound: closing at once would reset the connection before the answer arrives."""
    while most > 0:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        if not message["more_body"]:
            return
        most -= len(message["body"])


async def send_json(send: Send, status: int, body: bytes) -> None:
    """A JSON answer in two ASGI messages; uvicorn writes them together."""
    headers = [_JSON, (b"content-length", b"%d" % len(body)), WORKER]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_fault(send: Send, fault: Fault) -> None:
    """An error answer. After 413 the connection closes: what is left of the body is not worth reading."""
    headers = [_JSON, (b"content-length", b"%d" % len(fault.body)), WORKER]
    if fault.status == 413:
        headers.append(_CLOSE)
    if fault.retry:
        headers.append(_RETRY)
    if fault.status == 401:
        headers.append(_WHO)
    await send({"type": "http.response.start", "status": fault.status, "headers": headers})
    await send({"type": "http.response.body", "body": fault.body})
