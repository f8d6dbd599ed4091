"""What goes over the wire: requests, answers, errors. JSON only; never seen below the server."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta

from millirec.cascade.query import Query, Ranking, Stage
from millirec.cascade.rules import MAX_BOOSTS, Boost, Wanted
from millirec.data.event import Context, Event, Fields, ItemUpdate, Record, UserUpdate

MAX_K = 1_000
MAX_EVENTS = 10_000
MAX_IDS = 10_000
MAX_ID = 512
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_999  # the end of the year 9999

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]
Ids = Annotated[tuple[Id, ...], Meta(max_length=MAX_IDS)]
K = Annotated[int, Meta(ge=1, le=MAX_K)]
Boosts = Annotated[tuple[Boost, ...], Meta(max_length=MAX_BOOSTS)]
Deadline = Annotated[float, Meta(gt=0, le=60_000)]
Timestamp = (
    Annotated[int, Meta(ge=0, le=_LAST_MS, description="milliseconds since 1970-01-01 UTC")]
    | Annotated[datetime, Meta(description="ISO 8601; UTC where no zone is given")]
    | None
)


class _Wire(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Unknown fields are refused, so that a typo never passes in silence."""


class Interaction(_Wire, frozen=True, kw_only=True, tag_field="event", tag="interaction"):
    """Somebody (a `user`, or an anonymous `session`) did something with an item.

    `timestamp`: ISO 8601 (UTC where no zone is given) or epoch milliseconds; the server's clock when absent.
    """

    item: Id
    user: Id | None = None
    session: Id | None = None
    type: Id = "interaction"
    timestamp: Timestamp = None
    value: float | None = None
    context: Context | None = None

    def __post_init__(self) -> None:
        if self.user is None and self.session is None:
            raise ValueError("an interaction needs a `user` or a `session`")
        _check(self.timestamp)


class ItemChange(_Wire, frozen=True, kw_only=True, tag_field="event", tag="item"):
    """Newly known fields of an item; others stay as they were. `"available": false` takes the item down."""

    item: Id
    timestamp: Timestamp = None
    fields: Fields

    def __post_init__(self) -> None:
        _check(self.timestamp)


class UserChange(_Wire, frozen=True, kw_only=True, tag_field="event", tag="user"):
    """Newly known fields of a user; others stay as they were."""

    user: Id
    timestamp: Timestamp = None
    fields: Fields

    def __post_init__(self) -> None:
        _check(self.timestamp)


Feedback = Interaction | ItemChange | UserChange
FeedbackRequest = (
    Interaction
    | ItemChange
    | UserChange
    | Annotated[list[Interaction | ItemChange | UserChange], Meta(max_length=MAX_EVENTS)]
)


class RecommendRequest(_Wire, frozen=True, kw_only=True):
    """Whom to recommend to, and within which bounds.

    The history is that of `user`, or else of `session`, or is given in the call as `items` (ids, oldest first).
    With none of them, or for somebody unknown, the popular items are the answer. `include`: only these;
    `exclude`: none of these, even if included; `where`: feature name -> a value an item must have, a list of which it
    must have one, or a condition; `boost`: which items score higher or lower; `own`:
    items to put among the candidates of a cascade that asks for them; `keep_seen`: items already seen may come
    back. `timestamp`: when it is asked, the server's clock when absent. `explain` names the source of
    each item, and its propensity where the cascade draws; `trace` adds what each stage did and cost. `request_id`
    names the call: the same name, seed and state give the same list.
    """

    user: Id | None = None
    session: Id | None = None
    items: Ids | None = None
    timestamp: Timestamp = None
    k: K = 10
    exclude: Ids = ()
    include: Ids | None = None
    where: dict[str, Wanted] = {}
    boost: Boosts = ()
    own: Ids = ()
    keep_seen: bool = False
    context: Context | None = None
    deadline_ms: Deadline | None = None
    explain: bool = False
    trace: bool = False
    request_id: Id | None = None

    def __post_init__(self) -> None:
        _check(self.timestamp)


class RankRequest(_Wire, frozen=True, kw_only=True):
    """The caller's own `candidates`, to be ranked for a user, a session or a history given as `items`.

    All of them come back, best first, but for those in `exclude`; with `k`, the best k. Candidates that the
    model does not know stand last with the score null. Other fields as in `RecommendRequest`.
    """

    candidates: Annotated[tuple[Id, ...], Meta(min_length=1, max_length=MAX_K)]
    user: Id | None = None
    session: Id | None = None
    items: Ids | None = None
    timestamp: Timestamp = None
    k: K | None = None
    exclude: Ids = ()
    boost: Boosts = ()
    context: Context | None = None
    deadline_ms: Deadline | None = None
    explain: bool = False
    trace: bool = False
    request_id: Id | None = None

    def __post_init__(self) -> None:
        _check(self.timestamp)


class ScoredItem(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One recommended item; a higher score is better, null means that the model does not know the item.

    `propensity`: how probable the item was at its place, given those before it.
    """

    item: str
    score: float | None
    source: str | None = None
    propensity: float | None = None


class RankedResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer, best first. `took_ms`: time from the request's arrival to this answer, in the server.

    `request_id`: that of the call, or one made for it where the cascade draws or impressions are logged. `stage`: with
    a deadline, what there was time for: "full", "rank" (no selectors), "pre-rank" (by the pre-ranker), "retrieval" (no
    ranker either) or "popular" (no model). `members`: of a bundle with several models, those whose scores these are;
    `left_out`: name -> "late" or "failed" of the others.
    """

    took_ms: float
    model: str
    model_version: str
    items: list[ScoredItem]
    stages: tuple[Stage, ...] | None = None
    request_id: str | None = None
    stage: str | None = None
    members: tuple[str, ...] | None = None
    left_out: dict[str, str] | None = None


class SwapRequest(_Wire, frozen=True, kw_only=True):
    """What is to serve; what is left out stays as it is.

    `path`: a bundle's folder, below that of `serve --bundles`. `cascade`: a TOML file below it, to be used in the place
    of the bundle's own cascade; null = the bundle's own.
    """

    path: Id | msgspec.UnsetType = msgspec.UNSET
    cascade: Id | msgspec.UnsetType | None = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.path is msgspec.UNSET and self.cascade is msgspec.UNSET:
            raise ValueError("name a `path`, a `cascade`, or both")


class RollbackRequest(_Wire, frozen=True):
    """Nothing needs to be said."""


class Deployed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A bundle that serves or did. `since`: milliseconds since 1970. `cascade`: the file used instead of its own."""

    path: str
    model: str
    model_version: str
    since: int
    cascade: str | None = None


class BundlesResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What `serves` in all `workers`, what served `before` (the latest first), and the bundles that are `there`."""

    took_ms: float
    workers: int
    serves: Deployed
    before: list[Deployed]
    there: list[str]


class StageEvent(RankedResponse, frozen=True, omit_defaults=True, kw_only=True):
    """One event of /recommend/stream: the list of a `stage`. `final`: there will be no better one."""

    final: bool


class FeedbackResponse(msgspec.Struct, frozen=True):
    """How many events are now durable: they survive a crash, and every later answer has seen them."""

    accepted: int


class NoopResponse(msgspec.Struct, frozen=True):
    """The answer of the benchmark's yardstick: a fixed body after the same decoding."""

    ok: bool = True
    took_ms: float = 0.0


class Health(msgspec.Struct, frozen=True, omit_defaults=True):
    """`pid`: the worker that answered; `parent`: the supervisor of several workers."""

    status: str
    pid: int
    parent: int | None = None
    model: str | None = None
    model_version: str | None = None


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is wrong (`message`, for people; `code`, for programs) and what to do about it (`mend`)."""

    code: str
    message: str
    mend: str
    field: str | None = None


class ErrorResponse(msgspec.Struct, frozen=True):
    """Every answer with a status of 400 and above."""

    error: Problem


def records(request: FeedbackRequest, now: int) -> list[Record]:
    """The log's records of a feedback call; `now` (ms) stands in for absent timestamps."""
    events = request if isinstance(request, list) else [request]
    return [_record(event, now) for event in events]


def _record(event: Feedback, now: int) -> Record:
    time = milliseconds(event.timestamp, now)
    if isinstance(event, Interaction):
        return Event(
            item=event.item,
            time=time,
            user=event.user,
            session=event.session,
            action=event.type,
            value=event.value,
            context=event.context,
        )
    if isinstance(event, ItemChange):
        return ItemUpdate(item=event.item, time=time, fields=event.fields)
    return UserUpdate(user=event.user, time=time, fields=event.fields)


def milliseconds(timestamp: int | datetime | None, now: int) -> int:
    """A timestamp as milliseconds since 1970-01-01 UTC; `now` when absent."""
    if timestamp is None:
        return now
    if isinstance(timestamp, int):
        return timestamp
    aware = timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(milliseconds=1)


def _check(timestamp: int | datetime | None) -> None:
    if isinstance(timestamp, datetime) and milliseconds(timestamp, 0) < 0:
        raise ValueError("`timestamp` lies before 1970")


def query_of(request: RecommendRequest, request_id: str | None = None, started: float | None = None) -> Query:
    """The engine's question for a /recommend call.

    `request_id` names it when the call has no name of its own; its deadline counts from `started`, in seconds of
    `perf_counter`.
    """
    return Query(
        user=request.user,
        session=request.session,
        items=request.items,
        time=None if request.timestamp is None else milliseconds(request.timestamp, 0),
        k=request.k,
        exclude=request.exclude,
        boost=request.boost,
        own=request.own,
        include=request.include,
        where=request.where,
        keep_seen=request.keep_seen,
        context=request.context,
        deadline_ms=request.deadline_ms,
        due=_due(request.deadline_ms, started),
        request_id=request.request_id or request_id,
    )


def _due(deadline_ms: float | None, started: float | None) -> float | None:
    return None if deadline_ms is None or started is None else started + deadline_ms * 1e-3


def rank_query_of(request: RankRequest, request_id: str | None = None, started: float | None = None) -> Query:
    """The engine's question for a /rank call; `request_id` and `started` as in `query_of`."""
    return Query(
        user=request.user,
        session=request.session,
        items=request.items,
        time=None if request.timestamp is None else milliseconds(request.timestamp, 0),
        k=request.k or len(request.candidates),
        exclude=request.exclude,
        boost=request.boost,
        candidates=request.candidates,
        keep_seen=True,
        context=request.context,
        deadline_ms=request.deadline_ms,
        due=_due(request.deadline_ms, started),
        request_id=request.request_id or request_id,
    )


def scored(ranking: Ranking, k: int | None = None, explain: bool = False) -> list[ScoredItem]:
    """The items of a ranking as they go out, at most `k`. JSON knows no infinity: -inf goes out as null."""
    pairs = zip(ranking.items[:k], ranking.scores[:k], strict=True)
    if not explain:
        return [ScoredItem(item, score) for item, score in pairs]
    n = len(ranking.items[:k])
    sources = (ranking.source,) * n if ranking.sources is None else ranking.sources[:k]
    drawn = (None,) * n if ranking.propensities is None else ranking.propensities[:k]
    told = zip(pairs, sources, drawn, strict=True)
    return [ScoredItem(item, score, source, propensity) for (item, score), source, propensity in told]
