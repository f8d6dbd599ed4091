"""`Fault`: a refusal on its way to the client, as JSON with a code and a mend. Never a stack trace."""

import logging
import re

import msgspec

from millirec.data.errors import MillirecError, NotFoundError, UnavailableError
from millirec.server.wire import MAX_K, ErrorResponse, Problem

log = logging.getLogger("millirec.server")
_UNKNOWN = re.compile(r"unknown field `(.*)`$", re.DOTALL)
_MISSING = re.compile(r"required field `(.*)`$", re.DOTALL)
_DOCS = "the fields of this call stand in /docs"


class Fault(Exception):  # noqa: N818 - a word of its own: an answer on its way
    """An answer with an HTTP `status` of 400 and above."""

    def __init__(
        self, status: int, code: str, message: str, mend: str, field: str | None = None, retry: bool = False
    ) -> None:
        super().__init__(message)
        self.status, self.retry = status, retry
        self.body = msgspec.json.encode(ErrorResponse(Problem(code, message, mend, field)))


class Disconnected(Exception):  # noqa: N818 - an event, not an error
    """The client went away before its request was complete."""


def fault_of(error: Exception) -> Fault:
    """The refusal that an exception turns into; whatever is not the client's doing is logged and becomes a 500."""
    match error:
        case Fault():
            return error
        case msgspec.ValidationError():
            return _invalid(str(error))
        case msgspec.DecodeError() | UnicodeDecodeError() | RecursionError():
            return Fault(400, "invalid_json", f"the body is not JSON: {error}", "send a JSON body in UTF-8")
        case NotFoundError():
            return Fault(404, "not_found", error.problem, error.mend or _DOCS)
        case UnavailableError():
            return Fault(503, "unavailable", error.problem, error.mend or "try again later", retry=True)
        case MillirecError():
            return Fault(422, "invalid_request", error.problem, error.mend or _DOCS)
    log.error("a request failed", exc_info=error)
    return Fault(500, "internal", "the server failed at this request", "see the server's log; it has the reason")


def _invalid(text: str) -> Fault:
    """msgspec says "what is wrong - at `$.path`"."""
    message, at, path = text.rpartition(" - at `")
    message, path = (message, path.removesuffix("`")) if at else (text, "$")
    if found := _UNKNOWN.search(message):
        return Fault(422, "unknown_field", message, f"remove it; {_DOCS}", f"{path}.{found[1]}")
    if found := _MISSING.search(message):
        return Fault(422, "missing_field", message, "add it", f"{path}.{found[1]}")
    return Fault(422, "invalid_field", message, f"correct it; {_DOCS}", path)


def not_ready() -> Fault:
    """While the bundle is being opened."""
    return Fault(503, "not_ready", "the model is being opened", "ask /health/ready, try again", retry=True)


def stopping() -> Fault:
    """While the server ends its last requests."""
    return Fault(503, "stopping", "the server is stopping", "send the request again elsewhere", retry=True)


def too_many(limit: int) -> Fault:
    """More requests at a time than a worker takes."""
    return Fault(429, "too_many_requests", f"{limit} requests are in flight", "slow down and try again", retry=True)


def too_large(limit: int) -> Fault:
    """A body above the limit."""
    return Fault(413, "body_too_large", f"the body is longer than {limit} bytes", "send it in smaller parts")


def not_json(found: str) -> Fault:
    """A content type that is not JSON. Refusing it keeps foreign web pages from posting to a local server."""
    return Fault(
        415,
        "unsupported_media_type",
        f"content-type is {found!r}",
        "send the header `content-type: application/json`",
    )


def no_route(path: str) -> Fault:
    """No such address."""
    return Fault(404, "no_such_route", f"there is nothing at {path[:200]}", "see /docs for what there is")


def bad_k(found: str) -> Fault:
    """A `k` in a query string that is no number in range."""
    return Fault(422, "invalid_field", f"k = {found[:40]!r}", f"choose a whole number from 1 to {MAX_K}", "$.k")
