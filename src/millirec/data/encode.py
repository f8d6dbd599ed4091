"""`encode`: the one featuriser. Training, evaluation and the server all call it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Batch:
    """Arrays that a network eats.

    `items` int32 (B, L): item rows, oldest first, padded with 0 on the right. `lengths` int32 (B,): events in
    each row, at least 1 for a row that is to be encoded. `times` int64 (B, L): milliseconds, 0 where padded.
    `now` int64 (B,): milliseconds at which the question is put.
    """

    items: NDArray[np.int32]
    lengths: NDArray[np.int32]
    times: NDArray[np.int64]
    now: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)


def encode(
    items: Sequence[NDArray[np.int32]],
    times: Sequence[NDArray[np.int64]] | None,
    max_length: int,
    now: Sequence[int] | NDArray[np.int64] | None = None,
) -> Batch:
    """Pad the newest `max_length` events of each history into one batch.

    `items[i]` holds item rows (0 = unknown: dropped), `times[i]` the milliseconds of the same events, or None
    when no model asks for them. Unknown items leave no gap, so an unknown item never changes an answer.
    `now[i]`: when the question is put; None or a time before the newest event stands for the time of that event.
    """
    kept_items, kept_times = [], []
    for i, rows in enumerate(items):
        whole = np.count_nonzero(rows) == len(rows)
        kept_items.append((rows if whole else rows[rows > 0])[-max_length:])
        if times is not None:
            kept_times.append((times[i] if whole else times[i][rows > 0])[-max_length:])
    lengths = np.fromiter((len(rows) for rows in kept_items), np.int32, len(kept_items))
    width = max(int(lengths.max(initial=0)), 1)
    out = np.zeros((len(kept_items), width), np.int32)
    out_times = np.zeros((len(kept_items), width), np.int64)
    for i, rows in enumerate(kept_items):
        out[i, : len(rows)] = rows
        if kept_times:
            out_times[i, : len(rows)] = kept_times[i]
    newest = out_times[np.arange(len(lengths)), np.maximum(lengths, 1) - 1]
    asked_at = newest if now is None else np.maximum(newest, np.asarray(now, np.int64))
    return Batch(out, lengths, out_times, asked_at)
