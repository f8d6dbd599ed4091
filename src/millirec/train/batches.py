"""Training sequences in batches of like length, so that padding is not computed."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from millirec.data.dataset import TRAIN, Dataset
from millirec.data.encode import Batch, encode

Spans = NDArray[np.int64]
"""Windows of training events, (w, 2): each from its first event up to, not including, its end."""


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """`inputs` (B, L) and, for each of their events, the next item: `targets` int64 (B, L), 0 = none.

    `places` int64 (B, L): where each target stands in `dataset.sequences`; 0 where there is none.
    """

    inputs: Batch
    targets: NDArray[np.int64]
    places: NDArray[np.int64]


class TrainingSequences:
    """Windows of at most `max_length` + 1 events of a user's training history: the newest one, or all of them.

    With `since` (milliseconds) only newer events are targets; older ones are what the model reads before them.
    """

    def __init__(
        self,
        dataset: Dataset,
        max_length: int,
        windows: Literal["newest", "all"] = "newest",
        since: int | None = None,
    ) -> None:
        seq = dataset.sequences
        train = seq.roles == TRAIN
        self.items, self.times, self.places = seq.items[train], seq.times[train], np.flatnonzero(train)
        counts = np.bincount(seq.users[train], minlength=len(dataset.users) + 1)
        self.stops = np.cumsum(counts)
        self.starts = self.stops - counts
        enough = counts >= 2
        if since is not None:
            enough &= np.append(self.times, 0)[self.stops - 1] > since
        self.users = np.flatnonzero(enough)
        self.max_length, self.windows, self.since = max_length, windows, since

    def __len__(self) -> int:
        return len(self.users)

    def plan(self, batch_size: int, rng: np.random.Generator) -> list[Spans]:
        """The windows of every batch of one epoch: sorted by length with ties at random, batches in random order."""
        spans = self._newest() if self.windows == "newest" else self._all(rng)
        jitter = rng.random(len(spans))
        spans = spans[np.lexsort((jitter, spans[:, 1] - spans[:, 0]))]
        cuts = range(int(rng.integers(1, batch_size + 1)), len(spans), batch_size)
        batches = np.split(spans, list(cuts))
        return [batches[i] for i in rng.permutation(len(batches))]

    def batch(self, spans: Spans) -> TrainBatch:
        """Inputs and targets of these windows. The last question is put at the time of the event that it asks for."""
        items = [self.items[start:stop] for start, stop in spans]
        times = [self.times[start:stop] for start, stop in spans]
        asked_at = self.times[spans[:, 1] - 1]
        inputs = encode([row[:-1] for row in items], [row[:-1] for row in times], self.max_length, asked_at)
        targets, places = np.zeros(inputs.items.shape, np.int64), np.zeros(inputs.items.shape, np.int64)
        for i, (row, (start, stop)) in enumerate(zip(items, spans, strict=True)):
            targets[i, : len(row) - 1] = row[1:] if self.since is None else row[1:] * (times[i][1:] > self.since)
            places[i, : len(row) - 1] = self.places[start + 1 : stop]
        return TrainBatch(inputs, targets, places)

    def _newest(self) -> Spans:
        stops = self.stops[self.users]
        return np.stack([np.maximum(self.starts[self.users], stops - self.max_length - 1), stops], 1)

    def _all(self, rng: np.random.Generator) -> Spans:
        """Each history cut at random places `max_length` apart; windows share an event, so each is a target once."""
        length = self.max_length
        starts, lasts = self.starts[self.users], self.stops[self.users] - 1
        # A history that fits is not cut; of a longer one the first window has 1 to `length` targets.
        first = np.where(lasts - starts <= length, lasts - starts, rng.integers(1, length + 1, len(starts)))
        counts = 1 + -(-(lasts - starts - first) // length)
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        ends = np.repeat(starts + first, counts) + number * length
        begins = np.maximum(ends - length, np.repeat(starts, counts))
        begins[number == 0] = starts
        spans = np.stack([begins, np.minimum(ends, np.repeat(lasts, counts)) + 1], 1)
        return spans if self.since is None else spans[self.times[spans[:, 1] - 1] > self.since]
