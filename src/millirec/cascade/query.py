"""The question, the answer, and what the answer cost."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.cascade.extra import Extra
from millirec.cascade.fields import Fields
from millirec.cascade.rules import Boost, Boosts, Wanted
from millirec.data.catalog import Catalog
from millirec.data.event import Context
from millirec.index.fused import FusedIndex

if TYPE_CHECKING:
    from millirec.cascade.scorers import RowScorer
    from millirec.index.base import Index

_VECTORS_AT_ONCE = 65_536
_COMPARE_ALL = 100_000
Outcomes = Callable[[NDArray[np.int32]], tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Of rows (n,): how often each was a success and how often it was shown, (n,) each."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks for what.

    A history comes from the state of `user` (or else of `session`), or from `items` (ids, oldest first) when
    the caller gives one. `time`: when it is asked, in milliseconds, None = now. `include`: only these may be
    returned; `exclude`: none of these, even if included; `where`: feature name -> value, values or condition that an
    item must meet; `boost`: which items score higher or lower. `keep_seen` lets
    items return that the user already had.

    `candidates`: rank exactly these instead of retrieving; all of them come back but the excluded ones, whatever
    `k` says, and those unknown to the model stand last with a score of -inf.

    `own`: items that the cascade's source "own" puts among the candidates.

    `deadline_ms`: the time there is for the answer; it comes from the last stage that is expected to end by then, and
    at least the popular items. `due`: when that is, in seconds of `perf_counter`; None = from when the engine takes the
    question up.

    `request_id`: names the question; what a cascade leaves to chance depends on it. None = the engine makes one where
    something is left to chance.
    """

    user: str | None = None
    session: str | None = None
    items: tuple[str, ...] | None = None
    time: int | None = None
    k: int = 10
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] | None = None
    where: dict[str, Wanted] = {}
    boost: tuple[Boost, ...] = ()
    candidates: tuple[str, ...] | None = None
    keep_seen: bool = False
    context: Context | None = None
    deadline_ms: float | None = None
    request_id: str | None = None
    own: tuple[str, ...] = ()
    due: float | None = None


class Retrieved(NamedTuple):
    """What retrieval has said of candidates: `scores` float32 (n,) and places `ranks` float64 (n,), 1 = the best."""

    scores: NDArray[np.float32]
    ranks: NDArray[np.float64]

    def take(self, at: "slice | NDArray[np.int64] | NDArray[np.bool_]") -> "Retrieved":
        """Of those at some places."""
        return Retrieved(self.scores[at], self.ranks[at])


@dataclass(slots=True)
class Candidates:
    """Item rows on their way through the cascade: `rows` int32 (n,), `scores` float32 (n,), `source` their origin.

    `ordered`: the scores are finite and fall. `arranged`: a selector has put them in an order of its own. `origins`
    uint8 (n,): the place of each one's source in the config, None when `source` says it all. `propensities` float64
    (n,): how probable each was at its place, given those before it; None when nothing was left to chance. `retrieval`:
    what retrieval has said of them, once another order is theirs; None before that, and where it has no score.
    """

    rows: NDArray[np.int32]
    scores: NDArray[np.float32]
    source: str
    ordered: bool = False
    arranged: bool = False
    origins: NDArray[np.uint8] | None = None
    propensities: NDArray[np.float64] | None = None
    retrieval: Retrieved | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, at: "slice | NDArray[np.int64] | NDArray[np.bool_]") -> "Candidates":
        """Those at some places, in rising order: what is known of their order stays true."""
        origins = None if self.origins is None else self.origins[at]
        propensities = None if self.propensities is None else self.propensities[at]
        found = None if self.retrieval is None else self.retrieval.take(at)
        rows, scores = self.rows[at], self.scores[at]
        return Candidates(rows, scores, self.source, self.ordered, self.arranged, origins, propensities, found)

    def arrange(self, at: NDArray[np.int64]) -> "Candidates":
        """Those at these places, in this order."""
        out = self.take(at)
        out.ordered, out.arranged = False, True
        return out

    def join(self, other: "Candidates") -> "Candidates":
        """These, then what `other` adds to them."""
        new = ~np.isin(other.rows, self.rows)
        out = Candidates(
            np.concatenate([self.rows, other.rows[new]]),
            np.concatenate([self.scores, other.scores[new]]),
            self.source,
            arranged=self.arranged,
        )
        if self.origins is not None and other.origins is not None:
            out.origins = np.concatenate([self.origins, other.origins[new]])
        return out


class Stage(msgspec.Struct, frozen=True, gc=False):
    """One stage of a trace: how many candidates went in and came out, and the time it took.

    A stage that was done for several questions at once shows the time of all of them: each has waited for it.
    """

    name: str
    n_in: int
    n_out: int
    microseconds: float


Trace = tuple[Stage, ...]


@dataclass(slots=True)
class Asked:
    """A `Query` in a bundle's own rows: what the stages of a cascade read.

    `vector` float32 (d,) stands for the user, None for an empty history. `history` are its items, oldest first, None
    when there is none. It, `seen`, `exclude`, `include`, `own` and `candidates` are int32 rows (n,), 0 = unknown; so
    is `capped`, what was shown often enough.
    `where` and `available` are bool masks over the catalogue (n_items + 1,), None when they would keep everything.
    `names` are the ids of `candidates`, known or not. `before` are the stages that the question has behind it.
    `request_id` seeds what is left to chance. `boosts` change scores. `due`: when the answer is wanted, in seconds of
    `perf_counter`; `is_late`: there was no time for a user vector. `ranker` and `pre_ranker`: score rows for this
    question, None where the cascade has none. `outcomes`: what came of items so far, None where the cascade does not
    ask for it. `extra`: what is added to the model's scores, None = nothing.
    """

    k: int
    vector: NDArray[np.float32] | None
    seen: NDArray[np.int32]
    exclude: NDArray[np.int32]
    include: NDArray[np.int32] | None = None
    where: NDArray[np.bool_] | None = None
    available: NDArray[np.bool_] | None = None
    candidates: NDArray[np.int32] | None = None
    names: tuple[str, ...] = ()
    before: Trace = ()
    history: NDArray[np.int32] | None = None
    request_id: str | None = None
    boosts: Boosts | None = None
    own: NDArray[np.int32] | None = None
    due: float | None = None
    is_late: bool = False
    ranker: "RowScorer | None" = None
    pre_ranker: "RowScorer | None" = None
    outcomes: Outcomes | None = None
    extra: Extra | None = None
    capped: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))


class Shelf:
    """What a bundle holds for its cascade: catalogue, index, popularity, and the newest `fields` of items.

    `popularity` float32 (n + 1,): training events of each row; `popular` int32 (n,): rows by popularity, ties
    by row.
    """

    def __init__(self, catalog: Catalog, index: "Index", popularity: NDArray[np.int64]) -> None:
        self.catalog, self.index, self.fields = catalog, index, Fields(catalog)
        self.n_items = len(catalog)
        self.popularity = popularity.astype(np.float32)
        order = np.argsort(-popularity[1:], kind="stable") + 1
        self.popular: NDArray[np.int32] = order.astype(np.int32)
        self._local = threading.local()
        self._norms: NDArray[np.float32] | None = None

    def absent(self, rows: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which of `rows` (n,) are not among `others` (m,), bool (n,).

        Marks and unmarks `others` on one scratch array a thread: no sorting, and no cost for a large catalogue.
        """
        try:
            free: NDArray[np.bool_] = self._local.free
        except AttributeError:
            free = self._local.free = np.ones(self.n_items + 1, np.bool_)
        free[others] = False
        out = free.take(rows)
        free[others] = True
        return out

    def cosines(self, row: int, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Items by the cosine of their vectors with an item's, best first, without the item itself: rows, cosines.

        All items of a catalogue of up to 100,000; beyond, some 20 k of those with the best inner products.
        """
        index, n = self.index, self.n_items
        if isinstance(index, FusedIndex):  # its search finds no cosines
            index = index.joined
        if n > _COMPARE_ALL:
            n = min(n, 20 * k + 1_000)
        norms = self._vector_norms()
        vector = index.vectors(np.array([row], np.int32)) / norms[row]
        matches = index.search(vector, n)
        rows, scores = matches.rows[0], matches.scores[0]
        other = (rows > 0) & (rows != row)
        rows, scores = rows[other], scores[other] / norms[rows[other]]
        order = np.argsort(-scores, kind="stable")
        return rows[order], scores[order]

    def _vector_norms(self) -> NDArray[np.float32]:
        if self._norms is None:
            n = self.n_items + 1
            parts = [
                np.linalg.norm(
                    self.index.vectors(np.arange(at, min(at + _VECTORS_AT_ONCE, n), dtype=np.int32)),
                    axis=1,
                )
                for at in range(0, n, _VECTORS_AT_ONCE)
            ]
            self._norms = np.maximum(np.concatenate(parts), 1e-12).astype(np.float32)
        return self._norms


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: item ids and scores, best first, with the trace of how they were found.

    `source`: "sequence" when the model scored it, "popular" when nothing was known of the user, "fused" when the places
    in several sources are the scores; `sources`: what found each item first, None when `source` did. Scores are finite,
    but for the caller's own candidates that the model does not know: -inf. They fall, unless a selector has its own
    order. `propensities`: how probable each item was at its place, given those before it; None when nothing was left
    to chance. `request_id` is that of the question. `stage`: what there was time for, "popular", "retrieval",
    "pre-rank", "rank" or "full"; None for a question without a deadline. `model` and `version`: of the bundle that
    answered, "" before the engine names it. `members`: of a bundle with several models, those whose scores these are;
    `left_out`: name -> "late" or "failed" of the others.
    """

    items: tuple[str, ...]
    scores: tuple[float, ...]
    source: str
    trace: Trace = ()
    propensities: tuple[float, ...] | None = None
    request_id: str | None = None
    sources: tuple[str, ...] | None = None
    stage: str | None = None
    model: str = ""
    version: str = ""
    members: tuple[str, ...] | None = None
    left_out: dict[str, str] | None = None
