"""Filters: which candidates may stand in the answer. Each says for rows int32 (n,) which to keep, bool (n,)."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.cascade.query import Asked, Shelf

Keep = NDArray[np.bool_]


class SeenFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="seen"):
    """Leaves out what the user already had, unless the question says `keep_seen`."""


class ExcludeFilter(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="exclude"
):
    """Leaves out what the question excludes."""


class IncludeFilter(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="include"
):
    """Keeps only what the question includes, when it names any."""


class WhereFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="where"):
    """Keeps only items with the features that the question asks for."""


class AvailableFilter(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="available"
):
    """Leaves out items that an update took down (`"available": false`)."""


FilterConfig = SeenFilter | ExcludeFilter | IncludeFilter | WhereFilter | AvailableFilter


def keep(config: FilterConfig, shelf: Shelf, asked: Asked, rows: NDArray[np.int32]) -> Keep | None:
    """Which of `rows` this filter keeps, bool (n,); None when it has nothing to say to this question."""
    match config:
        case SeenFilter():
            return shelf.absent(rows, asked.seen) if len(asked.seen) else None
        case ExcludeFilter():
            return shelf.absent(rows, asked.exclude) if len(asked.exclude) else None
        case IncludeFilter():
            return None if asked.include is None else ~shelf.absent(rows, asked.include)
        case WhereFilter():
            return None if asked.where is None else asked.where[rows]
        case AvailableFilter():
            return None if asked.available is None else asked.available[rows]
