"""`Form`: one way to keep a column; the smallest is kept."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from millirec.data.compact.packing import Numbers, Writer


class Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="form"):
    """One way to keep a column. `read` of every form raises ValueError when the parts do not hold what they should."""


def smallest(forms: Sequence[Callable[..., Any]], parts: Writer, *arguments: Any) -> Any:
    """The form that takes the fewest bytes, written to `parts`."""
    found = []
    for form in forms:
        own = Writer()
        found.append((form(*arguments, own), own))
    best, own = min(found, key=lambda pair: pair[1].size)
    parts.join(own)
    return best


def bounded(count: int, most: int) -> int:
    """`count`. Raises ValueError when it is negative or above `most`."""
    if not 0 <= count <= most:
        raise ValueError(f"{count} entries, at most {most} expected")
    return count


def within(codes: Numbers, stop: int) -> Numbers:
    """`codes`. Raises ValueError when one is not in 0..stop - 1."""
    if len(codes) and not 0 <= codes.min() <= codes.max() < stop:
        raise ValueError("a code without a value")
    return codes


def parting(lengths: Numbers, total: int) -> Numbers:
    """`lengths`. Raises ValueError when one is negative or they do not make up `total`."""
    if (len(lengths) and not 0 <= lengths.min() <= lengths.max() <= total) or int(lengths.sum()) != total:
        raise ValueError(f"lengths that do not make {total}")
    return lengths
