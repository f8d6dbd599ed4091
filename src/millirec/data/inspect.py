"""`inspect`: what is in a log, and what looks wrong."""

import time as clock
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from millirec.data.audit import Leak, audit
from millirec.data.catalog import Catalog, Categorical, Feature, MultiValued, Numeric
from millirec.data.dataset import Dataset
from millirec.data.errors import DataError
from millirec.data.split import GlobalTime, LeaveLastOut, first_sights, split
from millirec.data.thin import ThinReport

_1990 = 631_152_000_000
_MINUTE = 60_000
_BOT = 200
"""Events of one user within a minute."""

_QUANTILES = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p99": 0.99, "max": 1.0}


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that looks wrong, how often, one example, and what it means."""

    kind: str
    count: int
    example: str
    explanation: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a log. Times are ISO 8601, None when the log has none.

    `repeats` counts events on an item that the user had met before; `tied_events` those that share user and time with
    another; `tied_last_users` users whose last two events tie, so that file order decides the test target. Features go
    by name, with their kind; `missing` counts values that are absent. `thin`: what a run's [thin] leaves out, if asked.
    """

    name: str
    protocol: str
    users: int
    items: int
    events: int
    rejected: int
    first_time: str | None
    last_time: str | None
    density: float
    events_per_user: dict[str, float]
    events_per_item: dict[str, float]
    repeats: int
    tied_events: int
    tied_last_users: int
    item_features: dict[str, str]
    user_features: dict[str, str]
    missing: dict[str, int]
    findings: list[Finding]
    thin: ThinReport | None = None


def inspect(dataset: Dataset, *, now: int | None = None) -> Report:
    """Figures and findings. `now` (ms) decides what the future is; the clock when absent."""
    log = dataset.interactions
    now = int(clock.time() * 1000) if now is None else now
    repeats = int((~first_sights(dataset)).sum())
    tied, last_tied = _ties(dataset) if dataset.timed else (0, 0)
    n_users, n_items = len(dataset.users), len(dataset.items)
    return Report(
        name=dataset.name,
        protocol=dataset.protocol,
        users=n_users,
        items=n_items,
        events=len(log),
        rejected=dataset.rejected,
        first_time=_iso(int(log.times.min())) if dataset.timed else None,
        last_time=_iso(int(log.times.max())) if dataset.timed else None,
        density=(len(log) - repeats) / (n_users * n_items),
        events_per_user=_quantiles(np.bincount(log.users)[1:]),
        events_per_item=_quantiles(np.bincount(log.items)[1:]),
        repeats=repeats,
        tied_events=tied,
        tied_last_users=last_tied,
        item_features={name: feature.kind for name, feature in dataset.items.features.items()},
        user_features={name: feature.kind for name, feature in dataset.users.features.items()},
        missing=_missing(dataset),
        findings=list(_findings(dataset, now, repeats=repeats > 0)),
    )


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _quantiles(counts: NDArray[np.int64]) -> dict[str, float]:
    figures = {name: float(np.quantile(counts, q)) for name, q in _QUANTILES.items()}
    return figures | {"mean": round(float(counts.mean()), 2)}


def _ties(dataset: Dataset) -> tuple[int, int]:
    """Events that share user and time with another, and users whose last two events do."""
    seq = dataset.sequences
    same = (seq.users[1:] == seq.users[:-1]) & (seq.times[1:] == seq.times[:-1])
    tied = np.concatenate([[False], same]) | np.concatenate([same, [False]])
    ends = seq.offsets[1:][np.diff(seq.offsets) > 1]
    return int(tied.sum()), int((seq.times[ends - 1] == seq.times[ends - 2]).sum())


def _missing(dataset: Dataset) -> dict[str, int]:
    """How many values are missing, by column; columns without a gap are left out."""
    found: dict[str, int] = {}
    if dataset.interactions.values is not None:
        found["value"] = int(np.isnan(dataset.interactions.values).sum())
    for what, catalog in (("items", dataset.items), ("users", dataset.users)):
        for name, feature in catalog.features.items():
            found[f"{what}.{name}"] = int(_gaps(feature).sum())
    return {name: n for name, n in found.items() if n}


def _gaps(feature: Feature) -> NDArray[np.bool_]:
    """Which entries have no value, bool (n,)."""
    match feature:
        case Categorical(_, codes):
            gaps: NDArray[np.bool_] = codes < 0
        case MultiValued(_, _, offsets):
            gaps = np.diff(offsets) == 0
        case Numeric(numbers):
            gaps = ~(~np.isnan(numbers.reshape(len(numbers), -1))).sum(1).astype(np.bool_)
        case _:
            gaps = np.array([not text for text in feature.texts])
    return gaps[1:]


def _findings(dataset: Dataset, now: int, *, repeats: bool) -> Iterator[Finding]:
    """All that looks wrong."""
    if dataset.rejected:
        yield Finding(
            kind="rejected-rows",
            count=dataset.rejected,
            example="see the file of rejected rows",
            explanation="rows that cannot be read were left out",
        )
    yield from _wrong_events(dataset, now)
    yield from _wrong_users(dataset)
    for what, catalog in (("user", dataset.users), ("item", dataset.items)):
        yield from _alike(what, catalog)
    yield from _bare_items(dataset.items)
    yield from _leaks(dataset, repeats=repeats)


def _event(dataset: Dataset, at: int) -> str:
    log = dataset.interactions
    user, item = dataset.users.vocabulary.id(int(log.users[at])), dataset.items.vocabulary.id(int(log.items[at]))
    return f"user {user!r}, item {item!r}, time {log.times[at]}"


def _some(dataset: Dataset, kind: str, mask: NDArray[np.bool_], explanation: str) -> Iterator[Finding]:
    """A finding on the events where `mask`, if there are any."""
    if mask.any():
        example = _event(dataset, int(np.argmax(mask)))
        yield Finding(kind=kind, count=int(mask.sum()), example=example, explanation=explanation)


def _wrong_events(dataset: Dataset, now: int) -> Iterator[Finding]:
    log = dataset.interactions
    if not dataset.timed:
        return
    frame = pl.DataFrame({"user": log.users, "item": log.items, "time": log.times})
    again = ~frame.select(pl.struct(pl.all()).is_first_distinct()).to_series().to_numpy()
    yield from _some(dataset, "duplicate-events", again, "the same user, item and time stand again")
    yield from _some(dataset, "future-times", log.times > now, "later than now: a wrong clock or unit?")
    yield from _some(dataset, "zero-times", log.times == 0, "the time is 0, which usually means unknown")
    old = (log.times > 0) & (log.times < _1990)
    yield from _some(dataset, "times-before-1990", old, "seconds read as milliseconds, or times that only count?")


def _wrong_users(dataset: Dataset) -> Iterator[Finding]:
    seq = dataset.sequences
    single = np.flatnonzero(np.diff(seq.offsets) == 1)
    if len(single):
        yield Finding(
            kind="single-event-users",
            count=len(single),
            example=f"user {dataset.users.vocabulary.id(int(single[0]))!r}",
            explanation="nothing can be learned from or measured on one event of a user",
        )
    if not dataset.timed or len(seq.times) < _BOT:
        return
    rapid = np.flatnonzero(
        (seq.users[_BOT - 1 :] == seq.users[: len(seq.users) - _BOT + 1])
        & (seq.times[_BOT - 1 :] - seq.times[: len(seq.times) - _BOT + 1] < _MINUTE)
    )
    bots = np.unique(seq.users[rapid])
    if len(bots):
        yield Finding(
            kind="bot-like-users",
            count=len(bots),
            example=f"user {dataset.users.vocabulary.id(int(bots[0]))!r}",
            explanation=f"{_BOT} events or more within a minute: a program, or a bulk import?",
        )


def _alike(what: str, catalog: Catalog) -> Iterator[Finding]:
    """Ids that differ only by spaces, or by case."""
    ids = pl.Series("id", catalog.vocabulary.ids, dtype=pl.String)
    bare = ids.str.replace_all(r"\s+", "")
    spaced = _twins(ids, bare)
    if spaced:
        yield Finding(
            kind=f"{what}-ids-differ-by-spaces",
            count=len(spaced),
            example=" and ".join(map(repr, spaced[:2])),
            explanation="ids that differ only by spaces count as different",
        )
    cased = _twins(ids, bare.str.to_lowercase())
    if len(cased) > len(spaced):
        extra = [name for name in cased if name not in set(spaced)]
        yield Finding(
            kind=f"{what}-ids-differ-by-case",
            count=len(extra),
            example=" and ".join(map(repr, extra[:2])),
            explanation="ids that differ only by upper and lower case count as different",
        )


def _twins(ids: pl.Series, key: pl.Series) -> Sequence[str]:
    """Ids that share their key with another, those of one key side by side."""
    frame = pl.DataFrame({"id": ids, "key": key})
    twins: list[str] = frame.filter(pl.col("key").is_duplicated()).sort("key", maintain_order=True)["id"].to_list()
    return twins


def _bare_items(items: Catalog) -> Iterator[Finding]:
    if not items.features:
        return
    bare = np.all([_gaps(feature) for feature in items.features.values()], axis=0)
    if bare.any():
        yield Finding(
            kind="items-without-features",
            count=int(bare.sum()),
            example=f"item {items.vocabulary.id(int(np.argmax(bare)) + 1)!r}",
            explanation="items with events, of which the table of features knows nothing",
        )


def _leaks(dataset: Dataset, *, repeats: bool) -> Iterator[Finding]:
    """Of the split that the log brings, else of the usual ones."""
    if dataset.protocol != "none":
        yield from (_leak(leak, dataset.protocol) for leak in audit(dataset, repeats=repeats))
        return
    for config in (LeaveLastOut(), GlobalTime()) if dataset.timed else (LeaveLastOut(),):
        try:
            done = split(dataset, config)
        except DataError:
            continue  # too small for this split
        yield from (_leak(leak, done.protocol) for leak in audit(done, repeats=repeats))


def _leak(leak: Leak, protocol: str) -> Finding:
    name = protocol.split(" ")[0]
    return Finding(kind=f"{leak.kind} ({name})", count=leak.count, example=leak.example, explanation=leak.explanation)
