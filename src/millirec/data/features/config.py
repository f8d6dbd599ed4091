"""The features of a ranker, declared: one tagged struct a feature. The union is the registry."""

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from millirec.data.errors import ConfigError

WINDOWS = {"1h": 3_600_000, "1d": 86_400_000, "7d": 604_800_000, "30d": 2_592_000_000, "all": 0}
"""Length of a window in milliseconds; 0 = since ever."""

Only = Literal["all", "positive", "negative"]
Scale = Literal["standard", "log", "buckets"]
_SOURCE = re.compile(r"(user|item)(\..+)?|context\..+")


class _Field(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every feature has: a `name`, which errors and reports call it by."""

    name: str

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("$.features: a feature has an empty `name`", "give each a name of its own")

    def at_least(self, least: int, *names: str) -> None:
        """Raises ConfigError for a number that is too small."""
        for name in names:
            if getattr(self, name) < least:
                raise ConfigError(f"{self.at(name)} = {getattr(self, name)}", f"choose {least} or more")

    def at(self, field: str) -> str:
        """The path of one of its settings in messages."""
        return f"$.features.{self.name}.{field}"

    def check_source(self, source: str, field: str = "source") -> None:
        """Raises ConfigError for what is no source."""
        if not _SOURCE.fullmatch(source):
            raise ConfigError(f"{self.at(field)} = {source!r}", "use user, item, user.NAME, item.NAME or context.NAME")


class _Scaled(_Field, frozen=True, kw_only=True):
    """A number, and how the network reads it.

    `scale`: "standard" takes the mean away and divides by the deviation, both of the training rows; "log" does so with
    sign(x) log(1 + |x|); "buckets" makes a categorical value of it, by `buckets` quantiles of the training rows. A
    missing number is the mean of "standard" and "log", and a value of its own (0) in "buckets".
    """

    scale: Scale = "standard"
    buckets: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(2, "buckets")


class CategoricalField(_Field, frozen=True, kw_only=True, tag="categorical"):
    """A value of a vocabulary: those with `min_count` training rows, the `max_size` most frequent of them (0 = all).

    0 = unknown or missing; the others are 1, 2, ... by falling frequency.
    """

    source: str
    min_count: int = 1
    max_size: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_source(self.source)
        self.at_least(1, "min_count")
        self.at_least(0, "max_size")


class HashedField(_Field, frozen=True, kw_only=True, tag="hashed"):
    """A value hashed into 1..`size`; values may share a place. 0 = missing. Weinberger et al., ICML 2009."""

    source: str
    size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_source(self.source)
        self.at_least(1, "size")


class MultiValuedField(_Field, frozen=True, kw_only=True, tag="multi"):
    """The values of a multi-valued feature of item or user, the first `max_values` known ones.

    Vocabulary as in "categorical"; unknown values leave no gap.
    """

    source: str
    min_count: int = 1
    max_size: int = 0
    max_values: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_source(self.source)
        if not self.source.startswith(("user.", "item.")):
            raise ConfigError(f"{self.at('source')} = {self.source!r} has one value", "use item.NAME or user.NAME")
        self.at_least(1, "min_count", "max_values")
        self.at_least(0, "max_size")


class NumericField(_Scaled, frozen=True, kw_only=True, tag="numeric"):
    """A number of the catalogues or of the request."""

    source: str

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_source(self.source)
        if self.source in ("user", "item"):
            raise ConfigError(f"{self.at('source')} = {self.source!r} is an id", "choose kind = 'categorical'")


class ClockField(_Field, frozen=True, kw_only=True, tag="clock"):
    """The hour (1..24) or the weekday (1 = Monday ... 7) of the question, in UTC moved by `offset_hours`."""

    part: Literal["hour", "weekday"]
    offset_hours: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -14 <= self.offset_hours <= 14:
            raise ConfigError(f"{self.at('offset_hours')} = {self.offset_hours}", "choose from -14 to 14")


class AgeField(_Scaled, frozen=True, kw_only=True, tag="age"):
    """Hours since the item's first event; missing before it."""

    scale: Scale = "log"


class GapField(_Scaled, frozen=True, kw_only=True, tag="gap"):
    """Seconds since the user's last event; missing before the first."""

    scale: Scale = "log"


class CounterField(_Scaled, frozen=True, kw_only=True, tag="counter"):
    """What has been counted over a sliding window that ends before the question.

    `by`: one or two of user, item, user.NAME and item.NAME (categorical); events that agree with the row in them count.
    `window` "1h", "1d", "7d", "30d" or "all": the window moves in 60 steps, and holds the last step in part and 59
    whole ones before it. `what`: "events", "positives", or "rate" = (positives + `smoothing` x prior) / (positives +
    negatives + `smoothing`), the prior being the share of positives in the training rows.
    """

    by: tuple[str, ...]
    window: Literal["1h", "1d", "7d", "30d", "all"] = "all"
    what: Literal["events", "positives", "rate"] = "rate"
    smoothing: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.by) not in (1, 2) or len(set(self.by)) < len(self.by):
            raise ConfigError(f"{self.at('by')} = {list(self.by)}", "name one source, or two different ones")
        for source in self.by:
            self.check_source(source, "by")
            if source.startswith("context."):
                raise ConfigError(f"{self.at('by')}: events do not tell {source}", "count by user, item or theirs")
        if self.smoothing < 0:
            raise ConfigError(f"{self.at('smoothing')} = {self.smoothing}", "choose 0 or more")


class CrossField(_Field, frozen=True, kw_only=True, tag="cross"):
    """The values of several sources as one, hashed into 1..`size`; 0 when one of them is missing."""

    sources: tuple[str, ...]
    size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.sources) < 2:
            raise ConfigError(f"{self.at('sources')} = {list(self.sources)}", "name two or more")
        for source in self.sources:
            self.check_source(source, "sources")
        self.at_least(1, "size")


class SequenceField(_Field, frozen=True, kw_only=True, tag="sequence"):
    """The newest `length` items of the user's events before the question, oldest first; `only` of those with a label.

    `of`: the name of a categorical feature with source "item", whose vocabulary and vectors it shares. Items that are
    not in it leave no gap.
    """

    of: str
    length: int = 50
    only: Only = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.at_least(1, "length")


FieldConfig = (
    CategoricalField
    | HashedField
    | MultiValuedField
    | NumericField
    | ClockField
    | AgeField
    | GapField
    | CounterField
    | CrossField
    | SequenceField
)


def sources_of(field: FieldConfig) -> tuple[str, ...]:
    """Everything that a feature reads by name, such as "item.year"."""
    one = getattr(field, "source", None)
    return (*([one] if one else []), *getattr(field, "sources", ()), *getattr(field, "by", ()))


def check_fields(fields: Iterable[FieldConfig]) -> None:
    """What no feature can see by itself. Raises ConfigError."""
    fields = tuple(fields)
    if not fields:
        raise ConfigError("$.features: empty", "declare at least one feature")
    names = [field.name for field in fields]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"$.features: {twice!r} stands twice", "give each feature a name of its own")
    items = {field.name for field in fields if isinstance(field, CategoricalField) and field.source == "item"}
    for field in fields:
        if isinstance(field, SequenceField) and field.of not in items:
            raise ConfigError(
                f"{field.at('of')} = {field.of!r} is no categorical feature with source 'item'", "declare one"
            )
