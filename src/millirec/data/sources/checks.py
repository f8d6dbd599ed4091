"""`Rules`: which columns become user, item, time and value, and when a row is bad."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

import msgspec
import polars as pl

TimeUnit = Literal["s", "ms", "us", "ns", "iso"]

REASON, LINE, TEXT = "__reason__", "__line__", "__text__"

LATEST = 4_102_444_800_000
"""2100-01-01 in milliseconds: later times are taken for damage."""

MAX_ID = 1000
_MS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}


class Checks(Protocol):
    """Turns columns as they stand in a file (`columns`: our name -> the file's name) into typed, judged ones."""

    @property
    def columns(self) -> dict[str, str]:
        """Our names and the file's."""

    def check(self, rows: pl.LazyFrame, keep: Sequence[str] = ()) -> pl.LazyFrame:
        """Typed columns and `REASON`: why a row is bad, null when it is not. `keep` are passed through.

        Rows may come with a reason already; that one stands.
        """


@dataclass(frozen=True, slots=True)
class Rules:
    """Of events: `columns` has user and item, and perhaps time and value. `unit` is that of the times."""

    columns: dict[str, str]
    unit: TimeUnit = "s"

    def check(self, rows: pl.LazyFrame, keep: Sequence[str] = ()) -> pl.LazyFrame:
        """`user`, `item` String, `time` Int64 ms, `value` Float32, and `REASON`."""
        schema = rows.collect_schema()
        reasons = [pl.col(REASON)]
        if self._headed():
            both = [pl.col(k).cast(pl.String) == self.columns[k] for k in ("user", "item")]
            reasons.append(_when(pl.all_horizontal(both), pl.lit("the heading stands here again")))
        out = []
        for name in ("user", "item"):
            reasons += id_reasons(name, self.columns[name])
            out.append(pl.col(name).cast(pl.String))
        if "time" in self.columns:
            time = _milliseconds(pl.col("time"), schema["time"], self.unit)
            reasons += self._time_reasons(time)
            out.append(time.alias("time"))
        if "value" in self.columns:
            value = pl.col("value").cast(pl.Float32, strict=False)
            wrong = (pl.col("value").is_not_null() & value.is_null()) | value.is_infinite()
            reasons.append(_when(wrong, said("value", self.columns["value"], "is not a number")))
            out.append(value.fill_null(float("nan")).alias("value"))
        return rows.select(*out, pl.coalesce(reasons).alias(REASON), *keep)

    def _headed(self) -> bool:
        return not self.columns["user"].isdigit()

    def _time_reasons(self, time: pl.Expr) -> list[pl.Expr]:
        name = self.columns["time"]
        kind = "a time (ISO 8601)" if self.unit == "iso" else "a number"
        return [
            _when(pl.col("time").is_null(), pl.lit(f"`{name}` is empty")),
            _when(time.is_null(), said("time", name, f"is not {kind}")),
            _when(time < 0, said("time", name, "is before 1970")),
            _when(time > LATEST, said("time", name, "is after the year 2100 (is the unit right?)")),
        ]


@dataclass(frozen=True, slots=True)
class FeatureRules:
    """Of a table of features: `columns` has `id` and the features, `kinds` says what each feature is.

    `separator` parts the values of a multi-valued feature that is a text.
    """

    columns: dict[str, str]
    kinds: dict[str, str]
    separator: str = "|"

    def check(self, rows: pl.LazyFrame, keep: Sequence[str] = ()) -> pl.LazyFrame:
        """`id` String; categorical and text String, multi List(String), numeric Float32 or a list; `REASON`."""
        schema = rows.collect_schema()
        reasons = [pl.col(REASON), *id_reasons("id", self.columns["id"])]
        out = [pl.col("id").cast(pl.String)]
        for name, kind in self.kinds.items():
            column, nested = pl.col(name), schema[name].is_nested()
            if kind == "multi":
                out.append(column.cast(pl.List(pl.String)) if nested else _parted(column, self.separator))
            elif kind == "numeric" and not nested:
                number = column.cast(pl.Float32, strict=False)
                wrong = column.is_not_null() & (number.is_null() | number.is_infinite())
                reasons.append(_when(wrong, said(name, self.columns[name], "is not a number")))
                out.append(number.alias(name))
            elif kind == "numeric":
                out.append(column.cast(pl.List(pl.Float32)))
            else:
                out.append(column.cast(pl.String))
        return rows.select(*out, pl.coalesce(reasons).alias(REASON), *keep)


def _parted(column: pl.Expr, separator: str) -> pl.Expr:
    """The values in a text: parted by the separator, or a JSON list."""
    text = column.cast(pl.String)
    parts = text.str.split(separator).list.filter(pl.element().str.len_bytes() > 0)
    listed = text.map_batches(_json_lists, return_dtype=pl.List(pl.String))
    return pl.when(text.str.starts_with("[")).then(listed).otherwise(parts)


def _json_lists(column: pl.Series) -> pl.Series:
    return pl.Series(column.name, [_json_list(text) for text in column], dtype=pl.List(pl.String))


def _json_list(text: str | None) -> list[str] | None:
    if text is None or not text.startswith("["):
        return None
    try:
        values = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return [v if isinstance(v, str) else msgspec.json.encode(v).decode() for v in values if v is not None]


def id_reasons(name: str, called: str) -> list[pl.Expr]:
    """An id must not be empty or endless."""
    text = pl.col(name).cast(pl.String)
    return [
        _when(text.is_null() | (text.str.len_bytes() == 0), pl.lit(f"`{called}` is empty")),
        _when(text.str.len_bytes() > MAX_ID, pl.lit(f"`{called}` is longer than {MAX_ID} bytes")),
    ]


def said(name: str, called: str, what: str) -> pl.Expr:
    """A reason that shows the value."""
    shown = pl.col(name).cast(pl.String).str.slice(0, 40)
    return pl.format("`{}` = {} " + what, pl.lit(called), shown)


def _when(condition: pl.Expr, reason: pl.Expr) -> pl.Expr:
    return pl.when(condition).then(reason)


def _milliseconds(column: pl.Expr, kind: pl.DataType, unit: TimeUnit) -> pl.Expr:
    """Times as Int64 milliseconds, null where they are none; out of range stays out of range, never wraps."""
    if kind.is_temporal():
        zoned = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if _zoned(kind) else column
        return zoned.cast(pl.Datetime("ms")).cast(pl.Int64)
    if unit == "iso":
        return column.map_batches(_iso, return_dtype=pl.Int64)
    text = column.str.strip_chars() if kind == pl.String else column
    number = text.cast(pl.Float64, strict=False)
    whole = text.cast(pl.Int64, strict=False)
    scale = _MS[unit]
    exact = whole * int(scale) if scale >= 1 else whole // int(1 / scale)
    near = (number * scale).clip(-1, LATEST + 1)
    inside = near.is_between(0, LATEST)
    return (
        pl.when(number.is_finite())
        .then(pl.when(inside & whole.is_not_null() & (number == whole)).then(exact).otherwise(near.round()))
        .cast(pl.Int64)
    )


def _zoned(kind: pl.DataType) -> bool:
    return isinstance(kind, pl.Datetime) and kind.time_zone is not None


def _iso(column: pl.Series) -> pl.Series:
    """ISO 8601 as milliseconds; a time without an offset is UTC. The usual form at once, others one by one."""
    text = column.cast(pl.String).str.strip_chars()
    plain = text.str.replace(r"(Z|\+00:?00)$", "").str.replace("T", " ", literal=True)
    fast = plain.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="ms").cast(pl.Int64)
    rest = fast.is_null() & text.is_not_null()
    if rest.any():
        slow = pl.Series([_one_iso(t) for t in text.filter(rest)], dtype=pl.Int64)
        filled = pl.DataFrame({"at": rest.arg_true(), "ms": slow})
        fast = fast.clone().scatter(filled["at"], filled["ms"])
    return fast.alias(column.name)


def _one_iso(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def guess_unit(sample: pl.Series) -> TimeUnit:
    """The unit of times by their size (seconds below 1e11, then ms, us, ns), or ISO 8601 when not numbers."""
    numbers = sample.drop_nulls().cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
    if numbers.null_count() * 2 > len(numbers) or not len(numbers):
        return "iso" if len(numbers) else "s"
    median = numbers.median()
    size = float(median) if isinstance(median, int | float) else 0.0
    if size < 1e11:
        return "s"
    return "ms" if size < 1e14 else "us" if size < 1e17 else "ns"
