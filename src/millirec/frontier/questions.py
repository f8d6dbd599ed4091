"""The requests that a load test sends: ready-made bytes, drawn once from a seeded generator."""

import http.client
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.errors import ConfigError, UnavailableError

_JSON = {"content-type": "application/json"}
_FEED_AT_ONCE = 1000
T = TypeVar("T")


class _Accepted(msgspec.Struct):
    accepted: int


class _Item(msgspec.Struct):
    item: str


class _Named(msgspec.Struct):
    items: list[_Item]


class _Alive(msgspec.Struct):
    pid: int
    parent: int | None = None


class Questions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked. `path`: /recommend, /noop, /feedback, or "mixed" (an event, then a question of its user).

    /recommend gives a history of `history` items in the call, so that each request is encoded in full; with
    `users` it names one of them instead, and the server reads the history from its state. `n`: different requests.
    """

    path: str = "/recommend"
    history: int = 50
    k: int = 10
    n: int = 2000
    users: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.path not in ("/recommend", "/noop", "/feedback", "mixed"):
            raise ConfigError(f"$.path = {self.path!r}", "use /recommend, /noop, /feedback or mixed")
        for name, least, most in (("history", 1, 10_000), ("k", 1, 1000), ("n", 1, 1_000_000)):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"$.{name} = {getattr(self, name)}", f"choose {least} to {most}")

    @property
    def writes(self) -> bool:
        """Whether the server's log grows."""
        return self.path in ("/feedback", "mixed")


def requests(
    questions: Questions, host: str, items: Sequence[str], weights: NDArray[np.float64] | None = None
) -> list[bytes]:
    """Whole HTTP requests. `weights` (n_items,): how often each item occurs; all alike when None."""
    rng = np.random.default_rng(questions.seed)
    chance = None if weights is None else weights / weights.sum()
    rows = rng.choice(len(items), (questions.n, questions.history), p=chance)
    users = questions.users or tuple(f"bench-{i}" for i in range(min(questions.n, 1000)))
    out = []
    for i in range(questions.n):
        user = users[i % len(users)]
        if questions.writes:
            out.append(request(host, "/feedback", _event(user, items[rows[i, 0]])))
        if questions.path != "/feedback":
            asks_user = questions.users or questions.path == "mixed"
            whom = {"user": user} if asks_user else {"items": [items[row] for row in rows[i]]}
            path = "/noop" if questions.path == "/noop" else "/recommend"
            out.append(request(host, path, {**whom, "k": questions.k}))
    return out


def _event(user: str, item: str) -> dict[str, str]:
    return {"event": "interaction", "user": user, "item": item, "type": "bench"}


def request(host: str, path: str, body: object) -> bytes:
    """One POST as it goes over the wire."""
    data = msgspec.json.encode(body)
    head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


def feed(url: str, questions: Questions, items: Sequence[str]) -> int:
    """Give each of `questions.users` a history of `history` random events; returns how many were accepted."""
    rng = np.random.default_rng(questions.seed)
    rows = rng.integers(0, len(items), (len(questions.users), questions.history))
    users = questions.users
    events = [_event(user, items[row]) for user, line in zip(users, rows, strict=True) for row in line.tolist()]
    accepted = 0
    for at in range(0, len(events), _FEED_AT_ONCE):
        accepted += call(url, "POST", "/feedback", _Accepted, events[at : at + _FEED_AT_ONCE]).accepted
    return accepted


def popular(url: str) -> list[str]:
    """Ids that the server itself names: what it recommends to somebody unknown."""
    found = call(url, "POST", "/recommend", _Named, {"items": [], "k": 1000})
    if not found.items:
        raise UnavailableError(f"{url} names no items", "give the bundle, or load /noop")
    return [item.item for item in found.items]


def server_pid(url: str) -> int:
    """The process that stands for the whole server: the supervisor, or the only worker."""
    alive = call(url, "GET", "/health/live", _Alive)
    return alive.parent or alive.pid


def call(url: str, method: str, path: str, kind: type[T], body: object = None) -> T:
    """One JSON call outside the measurement. Raises UnavailableError when it fails."""
    with connected(url) as connection:
        return exchange(connection, method, path, kind, body)


@contextmanager
def connected(url: str) -> Iterator[http.client.HTTPConnection]:
    """A connection for several calls of `exchange`."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port or 80, timeout=60)
    try:
        yield connection
    finally:
        connection.close()


def exchange(connection: http.client.HTTPConnection, method: str, path: str, kind: type[T], body: object = None) -> T:
    """`call` on an open connection."""
    where = f"http://{connection.host}:{connection.port}"
    try:
        data = None if body is None else msgspec.json.encode(body)
        connection.request(method, path, data, _JSON)
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"{where}{path} does not answer ({error})", "check the address") from error
    if answer.status >= 400:
        raise UnavailableError(f"{where}{path} answers {answer.status}: {text[:300]!r}", "see its /docs")
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise UnavailableError(f"{where}{path} is no millirec server ({error})", "check the address") from error
