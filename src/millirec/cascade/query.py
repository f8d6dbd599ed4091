"""The question, the answer, and what the answer cost."""

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.event import Context


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks for what.

    A history comes from the state of `user` (or else of `session`), or from `items` (ids, oldest first) when
    the caller gives one. `include`: only these may be returned; `exclude`: none of these; `where`: feature name
    -> value that an item must have. `candidates`: rank exactly these instead of retrieving. `keep_seen` lets
    items return that the user already had.
    """

    user: str | None = None
    session: str | None = None
    items: tuple[str, ...] | None = None
    k: int = 10
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] | None = None
    where: dict[str, str] = {}
    candidates: tuple[str, ...] | None = None
    keep_seen: bool = False
    context: Context | None = None
    deadline_ms: float | None = None


@dataclass(slots=True)
class Candidates:
    """Item rows on their way through the cascade: `rows` int32 (n,), `scores` float32 (n,), `source` their origin."""

    rows: NDArray[np.int32]
    scores: NDArray[np.float32]
    source: str

    def __len__(self) -> int:
        return len(self.rows)


class Stage(msgspec.Struct, frozen=True):
    """One stage of a trace: how many candidates went in and came out, and the time it took."""

    name: str
    n_in: int
    n_out: int
    microseconds: float


Trace = tuple[Stage, ...]


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: item ids and scores, best first, with the trace of how they were found."""

    items: tuple[str, ...]
    scores: tuple[float, ...]
    source: str
    trace: Trace = ()
