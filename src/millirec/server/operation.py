"""`Operation`: what is told of one address. The tables of operations also make OpenAPI and `/docs`."""

from dataclasses import dataclass
from typing import Any

POST_ERRORS = (400, 413, 415, 422, 429, 503)


@dataclass(frozen=True)
class Operation:
    """One address: what it takes, what it gives, and an example of a request.

    `name`: for OpenAPI, None = made from the path. `kind`: the content type of the answer, None = JSON, or plain text
    where the response is `str`.
    """

    method: str
    path: str
    summary: str
    response: Any
    request: Any = None
    example: str = ""
    errors: tuple[int, ...] = ()
    name: str | None = None
    kind: str | None = None
