"""What a server showed, joined to what came of it: a row an item shown, its place, and how probable it was there."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from millirec.data.dataset import Dataset
from millirec.data.errors import ConfigError, DataError
from millirec.data.event import Context, Event
from millirec.data.filters import Filters
from millirec.data.sources import assemble
from millirec.data.sources.log import read_records
from millirec.data.sources.rejects import Rejects

_OWN = ("position", "propensity")
_KINDS = {"user": pl.String(), "item": pl.String(), "time": pl.Int64(), "value": pl.Float32(), "shown": pl.Boolean()}


class ImpressionsConfig(Filters, frozen=True, kw_only=True, tag="impressions"):
    """`path`: a server's data folder (`serve --data --impressions`); `shown`: its impressions, left out: those in
    `<path>/impressions`.

    An item shown is a success, value 1, when an event with the call's `request_id` in its context and one of `actions`
    (all when left out) names it within `within_hours`; else a failure, value 0, once that time has passed.
    `outcomes`: further ones, by name the actions that count; they become "context.NAME", 1 or 0. The log's events stand
    between the rows as what was known; they are no rows.
    """

    path: str
    shown: str | None = None
    actions: tuple[str, ...] | None = None
    outcomes: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    within_hours: float = 24.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.within_hours > 0:
            raise ConfigError(f"$.data.within_hours = {self.within_hours}", "choose a time above 0")
        taken = sorted(set(self.outcomes) & set(_OWN))
        if taken:
            raise ConfigError(f"$.data.outcomes names {taken}", "choose other names: these tell place and chance")


class Shown(msgspec.Struct, frozen=True):
    """What is read of a line of impressions; `time` in milliseconds, a propensity for each item."""

    request_id: str
    time: int
    items: tuple[str, ...]
    propensities: tuple[float, ...]
    user: str | None = None
    session: str | None = None
    context: Context | None = None

    @property
    def who(self) -> str:
        """A call without user and session is a person of its own."""
        return self.user or (f"session:{self.session}" if self.session else f"request:{self.request_id}")


def read_impressions(config: ImpressionsConfig, rejects: Rejects) -> Dataset:
    """Rows and events in order of time, what is shown first where they meet.

    Of several lines with one request id the last counts. Raises DataError when nothing was shown.
    """
    path = Path(config.path)
    records = read_records(path, rejects)
    events = [record for record in records if isinstance(record, Event) and not record.is_impression]
    folder = Path(config.shown) if config.shown else path / "impressions"
    shown = {one.request_id: one for one in _lines(folder, rejects)}
    if not any(one.items for one in shown.values()):
        raise DataError(f"{folder}: no impressions", "serve with --impressions, or check the path")
    return joined(list(shown.values()), events, config, path.resolve().name)


def joined(shown: list[Shown], events: list[Event], config: ImpressionsConfig, name: str) -> Dataset:
    """The lists of what was shown and the events as one log; see `ImpressionsConfig`."""
    met = _outcomes(events)
    end = max([one.time for one in shown] + [event.time for event in events])
    asked = dict.fromkeys(key for one in shown for key in one.context or {})
    log = _Log(tuple(dict.fromkeys((*_OWN, *config.outcomes, *asked))))
    for one in shown:
        until = one.time + config.within_hours * 3_600_000
        for place, (item, chance) in enumerate(zip(one.items, one.propensities, strict=True), start=1):
            own = {action for action, at in met.get((one.request_id, item), ()) if one.time <= at <= until}
            facts: dict[str, object] = {**(one.context or {}), "position": place, "propensity": chance}
            # Whatever has not happened by the end of the log may yet happen.
            facts |= {key: _told(own & set(names), until <= end) for key, names in config.outcomes.items()}
            success = _told(own if config.actions is None else own & set(config.actions), until <= end)
            log.add((one.who, item, one.time, success, True), facts)
    for event in events:
        counts = config.actions is None or event.action in config.actions
        who = event.user or f"session:{event.session}"
        log.add((who, event.item, event.time, 1.0 if counts else np.nan, False), {})
    return log.dataset(name)


def _outcomes(events: list[Event]) -> dict[tuple[str, str], list[tuple[str, int]]]:
    """Actions and their times by request id and item."""
    met: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for event in events:
        request = (event.context or {}).get("request_id")
        if request is not None:
            met.setdefault((str(request), event.item), []).append((event.action, event.time))
    return met


def _told(happened: set[str], over: bool) -> float:
    return 1.0 if happened else 0.0 if over else np.nan


class _Log:
    """Columns that grow row by row."""

    def __init__(self, context: tuple[str, ...]) -> None:
        self._columns: dict[str, list[object]] = {key: [] for key in _KINDS}
        self._context: dict[str, list[object]] = {key: [] for key in context}

    def add(self, row: tuple[object, ...], facts: dict[str, object]) -> None:
        """A row in the order of `_KINDS`, and what its context tells."""
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)
        for key, values in self._context.items():
            values.append(facts.get(key))

    def dataset(self, name: str) -> Dataset:
        """In order of time; rows of the same millisecond as they were added."""
        order = np.argsort(np.array(self._columns["time"], np.int64), kind="stable")
        dataset = assemble.dataset(pl.DataFrame(self._columns, schema=_KINDS)[order], name=name)
        context = {key: _column(values)[order] for key, values in self._context.items()}
        return replace(dataset, interactions=replace(dataset.interactions, context=context))


def _column(values: list[object]) -> NDArray[Any]:
    """Numbers as such, NaN = missing; anything else as it was sent."""
    plain = all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values)
    return np.array([np.nan if v is None else v for v in values], np.float64) if plain else np.array(values, object)


def _lines(folder: Path, rejects: Rejects) -> Iterator[Shown]:
    """File by file, the oldest first; a line that a crash cut off at a file's end is left out."""
    decode = msgspec.json.Decoder(Shown).decode
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    found = decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                    rejects.add(str(path), number, f"no impression ({error})", line)
                    continue
                if len(found.items) == len(found.propensities):
                    yield found
                else:
                    rejects.add(str(path), number, "not a propensity for each item", line)
