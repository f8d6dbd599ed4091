"""What the caller brings along."""

import msgspec
import numpy as np

from millirec.cascade.query import Asked, Candidates
from millirec.cascade.sources.size import check_sizes


class OwnSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="own"):
    """The items that the question names in `own`, in its order; those unknown to the model are left out.

    `n`: how many of them at most, None = all.
    """

    n: int | None = None

    def __post_init__(self) -> None:
        check_sizes("own", n=self.n)


def own(asked: Asked, n: int) -> Candidates:
    """Up to `n` of them; the score falls from 0 with the place."""
    named = asked.own[asked.own > 0] if asked.own is not None else np.empty(0, np.int32)
    rows = named[np.sort(np.unique(named, return_index=True)[1])][:n]
    return Candidates(rows, -np.arange(len(rows), dtype=np.float32), "own", True)
