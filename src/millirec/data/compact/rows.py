"""Columns of rows of a catalogue: users and items of a log."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from millirec.data.compact.form import Form, bounded, parting, smallest, within
from millirec.data.compact.packing import Ints, Numbers, Reader, Writer


class Plain(Form, frozen=True, tag="plain"):
    """Rows as numbers."""

    rows: Ints

    @classmethod
    def of(cls, rows: Numbers, n: int, parts: Writer) -> "Plain":
        """`rows` (events,) in 0..n."""
        del n
        return cls(Ints.of(rows, parts))

    def read(self, n: int, count: int, parts: Reader) -> Numbers:
        """int64 (count,)."""
        del n
        return self.rows.read(parts, count)


class Ranked(Form, frozen=True, tag="ranked"):
    """Rows by how often they stand in the log, the most frequent first: their numbers are small more often."""

    counts: Ints
    ranks: Ints

    @classmethod
    def of(cls, rows: Numbers, n: int, parts: Writer) -> "Ranked":
        """`rows` (events,) in 0..n."""
        counts = np.bincount(rows, minlength=n + 1)
        by_rank = np.argsort(-counts, kind="stable")
        ranks = np.empty_like(by_rank)
        ranks[by_rank] = np.arange(n + 1)
        return cls(Ints.of(counts, parts), Ints.of(ranks[rows], parts))

    def read(self, n: int, count: int, parts: Reader) -> Numbers:
        """int64 (count,)."""
        by_rank = np.argsort(-self.counts.read(parts, n + 1), kind="stable")
        return by_rank[within(self.ranks.read(parts, count), n + 1)]


class Runs(Form, frozen=True, tag="runs"):
    """Rows that stand again and again, such as users of a log that is written user by user."""

    lengths: Ints
    rows: Ints

    @classmethod
    def of(cls, rows: Numbers, n: int, parts: Writer) -> "Runs":
        """`rows` (events,) in 0..n."""
        del n
        starts = np.flatnonzero(np.concatenate([np.ones(min(len(rows), 1), np.bool_), rows[1:] != rows[:-1]]))
        lengths = np.diff(np.append(starts, len(rows)))
        return cls(Ints.of(lengths, parts), Ints.of(rows[starts], parts))

    def read(self, n: int, count: int, parts: Reader) -> Numbers:
        """int64 (count,)."""
        del n
        n_runs = bounded(self.lengths.count, count)
        lengths = parting(self.lengths.read(parts, n_runs), count)
        return np.repeat(self.rows.read(parts, n_runs), lengths)


RowColumn = Plain | Ranked | Runs


def rows_of(rows: NDArray[Any], n: int, parts: Writer) -> RowColumn:
    """Rows of a catalogue of `n` entries, (events,), in the smallest form."""
    form: RowColumn = smallest([Plain.of, Ranked.of, Runs.of], parts, rows.astype(np.int64), n)
    return form


def read_rows(column: RowColumn, n: int, count: int, parts: Reader) -> NDArray[np.int32]:
    """int32 (count,), all in 1..n."""
    rows = column.read(n, count, parts)
    if count and not 1 <= rows.min() <= rows.max() <= n:
        raise ValueError("a row outside the catalogue")
    return rows.astype(np.int32)
