"""From a table of events to a `Dataset`: ids become rows, features become columns."""

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from millirec.data.catalog import Catalog, Categorical, Feature, MultiValued, Numeric, Text, Vocabulary
from millirec.data.dataset import Dataset, Interactions
from millirec.data.errors import DataError


def dataset(
    events: pl.DataFrame,
    *,
    name: str,
    items: Mapping[str, pl.DataFrame] | None = None,
    users: Mapping[str, pl.DataFrame] | None = None,
    protocol: str = "none",
) -> Dataset:
    """Events with `user`, `item` and perhaps `time`, `value`, `role`, `shown`, `context.NAME`, in file order.

    Rows of both catalogues are given in order of first appearance. `items` and `users` map a feature's kind
    (categorical, multi, numeric, text) to a frame `id`, then a column a feature (see `features`).
    """
    if not len(events):
        raise DataError(f"{name}: no events", "check the file and the filters")
    user_ids, user_rows = _rows(events["user"])
    item_ids, item_rows = _rows(events["item"])
    n = len(events)
    timed = "time" in events.columns
    times = events["time"].to_numpy() if timed else np.arange(n, dtype=np.int64)
    values = events["value"].to_numpy().astype(np.float32) if "value" in events.columns else None
    context = {c.removeprefix("context."): events[c].to_numpy() for c in events.columns if c.startswith("context.")}
    shown = events["shown"].to_numpy() if "shown" in events.columns else None
    log = Interactions(user_rows, item_rows, times.astype(np.int64), values, context, shown)
    roles = events["role"].to_numpy().astype(np.uint8) if "role" in events.columns else np.zeros(n, np.uint8)
    return Dataset(
        log,
        Catalog(Vocabulary(item_ids.to_list()), features(item_ids, items or {})),
        Catalog(Vocabulary(user_ids.to_list()), features(user_ids, users or {})),
        roles,
        name,
        protocol,
        timed=timed,
    )


def _rows(column: pl.Series) -> tuple[pl.Series, NDArray[np.int32]]:
    """Distinct ids in order of first appearance, and the row (1..n) of each entry."""
    ids = column.unique(maintain_order=True)
    known = pl.DataFrame({"id": ids, "row": np.arange(1, len(ids) + 1, dtype=np.int32)})
    rows = pl.DataFrame({"id": column}).join(known, on="id", how="left", maintain_order="left")["row"]
    return ids, rows.to_numpy().astype(np.int32)


def features(ids: pl.Series, tables: Mapping[str, pl.DataFrame]) -> dict[str, Feature]:
    """Columns over a catalogue. Kinds: categorical String, multi List(String), numeric Float32, text String.

    A numeric column of lists is a vector an entry. Entries that a table does not know have missing values;
    entries that are not in `ids` are left out.
    """
    out: dict[str, Feature] = {}
    for kind, table in tables.items():
        table = table.unique("id", keep="first", maintain_order=True)
        aligned = pl.DataFrame({"id": ids}).join(table, on="id", how="left", maintain_order="left")
        for name in table.columns[1:]:
            out[name] = _feature(kind, aligned[name])
    return out


def _feature(kind: str, column: pl.Series) -> Feature:
    if kind == "numeric" and column.dtype.is_nested():
        return _vectors(column)
    if kind == "numeric":
        numbers = column.cast(pl.Float32).fill_null(float("nan")).to_numpy()
        return Numeric(np.concatenate([[np.float32("nan")], numbers]).astype(np.float32))
    if kind == "text":
        return Text(("", *column.fill_null("").to_list()))
    if kind == "categorical":
        values, codes = _coded(column)
        return Categorical(values, np.concatenate([[-1], codes]).astype(np.int32))
    lengths = column.list.len().fill_null(0).to_numpy()
    values, codes = _coded(column.filter(column.list.len() > 0).explode())
    offsets = np.concatenate([[0, 0], np.cumsum(lengths)]).astype(np.int32)
    return MultiValued(values, codes.astype(np.int32), offsets)


def _vectors(column: pl.Series) -> Numeric:
    """Vectors of one width. Raises DataError when their widths differ."""
    widths = column.drop_nulls().list.len().unique()
    if len(widths) > 1:
        raise DataError(f"feature `{column.name}`: vectors of {widths.to_list()[:4]} numbers", "give all one width")
    width = int(widths[0]) if len(widths) else 1
    out = np.full((len(column) + 1, width), np.nan, np.float32)
    known = column.is_not_null()
    out[1:][known.to_numpy()] = column.drop_nulls().explode().to_numpy().reshape(-1, width)
    return Numeric(out)


def _coded(column: pl.Series) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Distinct values, sorted, and the place of each entry among them; -1 for missing."""
    column = column.cast(pl.String).alias("value")
    values = column.drop_nulls().unique().sort()
    known = pl.DataFrame({"value": values, "code": np.arange(len(values), dtype=np.int32)})
    codes = column.to_frame().join(known, on="value", how="left", maintain_order="left")["code"]
    return tuple(values.to_list()), codes.fill_null(-1).to_numpy().astype(np.int32)


def k_core(data: Dataset, min_user: int, min_item: int) -> Dataset:
    """Without users and items that have fewer events, over and over until all that is left has enough."""
    if min_user <= 1 and min_item <= 1:
        return data
    log = data.interactions
    kept = np.ones(len(log), np.bool_)
    while True:
        users = np.bincount(log.users[kept], minlength=len(data.users) + 1) >= min_user
        items = np.bincount(log.items[kept], minlength=len(data.items) + 1) >= min_item
        still = kept & users[log.users] & items[log.items]
        if (still == kept).all():
            break
        kept = still
    if not kept.any():
        raise DataError(
            f"{data.name}: nothing is left of {len(log):,} events", "lower min_user_events or min_item_events"
        )
    log = log.take(kept)
    users_, user_rows = _narrow(data.users, log.users)
    items_, item_rows = _narrow(data.items, log.items)
    log = Interactions(user_rows, item_rows, log.times, log.values, log.context, log.shown)
    return Dataset(log, items_, users_, data.roles[kept], data.name, data.protocol, data.rejected, timed=data.timed)


def _narrow(catalog: Catalog, rows: NDArray[np.int32]) -> tuple[Catalog, NDArray[np.int32]]:
    """The catalogue of these rows only, in order of first appearance, and the events' new rows."""
    kept, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    new = np.empty(len(kept), np.int32)
    new[order] = np.arange(1, len(kept) + 1, dtype=np.int32)
    old = np.concatenate([[0], kept[order]])
    ids = [catalog.vocabulary.id(int(row)) for row in old[1:]]
    picked = {name: pick(feature, old) for name, feature in catalog.features.items()}
    return Catalog(Vocabulary(ids), picked), new[inverse]


def pick(feature: Feature, rows: NDArray[np.int64]) -> Feature:
    """The column of these rows of a catalogue, in this order."""
    match feature:
        case Categorical(values, codes):
            return Categorical(values, codes[rows])
        case MultiValued(values, codes, offsets):
            lengths = np.diff(offsets)[rows]
            starts = offsets[rows]
            ends = np.concatenate([[0], np.cumsum(lengths)])
            at = np.repeat(starts - ends[:-1], lengths) + np.arange(ends[-1])
            return MultiValued(values, codes[at], ends.astype(np.int32))
        case Numeric(numbers):
            return Numeric(numbers[rows])
        case Text(texts):
            return Text(tuple(texts[row] for row in rows))
