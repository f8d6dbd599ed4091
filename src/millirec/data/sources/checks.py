"""`Rules`: which columns become user, item, time and value, and when a row is bad."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import polars as pl

TimeUnit = Literal["s", "ms", "us", "ns", "iso"]

REASON, LINE, TEXT = "__reason__", "__line__", "__text__"

LATEST = 4_102_444_800_000
"""2100-01-01 in milliseconds: later times are taken for damage."""

MAX_ID = 1000
_MS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}


@dataclass(frozen=True, slots=True)
class Rules:
    """`columns` maps user, item, time, value (the last two may be absent) to the names in the file.

    `names` are the file's headings of user and item, to notice a heading that stands again further down.
    """

    columns: dict[str, str]
    unit: TimeUnit = "s"

    def check(self, rows: pl.LazyFrame, keep: Sequence[str] = ()) -> pl.LazyFrame:
        """`user`, `item` String, `time` Int64 ms, `value` Float32, and why a row is bad (null when it is not).

        Rows may come with a reason already; that one stands.
        """
        schema = rows.collect_schema()
        reasons = [pl.col(REASON)]
        if self._headed():
            both = [pl.col(k).cast(pl.String) == self.columns[k] for k in ("user", "item")]
            reasons.append(_when(pl.all_horizontal(both), pl.lit("the heading stands here again")))
        out = []
        for name in ("user", "item"):
            reasons += self._id_reasons(name)
            out.append(pl.col(name).cast(pl.String))
        if "time" in self.columns:
            time = _milliseconds(pl.col("time"), schema["time"], self.unit)
            reasons += self._time_reasons(time)
            out.append(time.alias("time"))
        if "value" in self.columns:
            value = pl.col("value").cast(pl.Float32, strict=False)
            wrong = (pl.col("value").is_not_null() & value.is_null()) | value.is_infinite()
            reasons.append(_when(wrong, self._said("value", "is not a number")))
            out.append(value.fill_null(float("nan")).alias("value"))
        return rows.select(*out, pl.coalesce(reasons).alias(REASON), *keep)

    def _headed(self) -> bool:
        return not self.columns["user"].isdigit()

    def _id_reasons(self, name: str) -> list[pl.Expr]:
        text = pl.col(name).cast(pl.String)
        said = self.columns[name]
        return [
            _when(text.is_null() | (text.str.len_bytes() == 0), pl.lit(f"`{said}` is empty")),
            _when(text.str.len_bytes() > MAX_ID, pl.lit(f"`{said}` is longer than {MAX_ID} bytes")),
        ]

    def _time_reasons(self, time: pl.Expr) -> list[pl.Expr]:
        said = self.columns["time"]
        kind = "a time (ISO 8601)" if self.unit == "iso" else "a number"
        return [
            _when(pl.col("time").is_null(), pl.lit(f"`{said}` is empty")),
            _when(time.is_null(), self._said("time", f"is not {kind}")),
            _when(time < 0, self._said("time", "is before 1970")),
            _when(time > LATEST, self._said("time", "is after the year 2100: wrong unit?")),
        ]

    def _said(self, name: str, what: str) -> pl.Expr:
        shown = pl.col(name).cast(pl.String).str.slice(0, 40)
        return pl.format("`{}` = {} " + what, pl.lit(self.columns[name]), shown)


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
