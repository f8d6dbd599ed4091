"""Training sequences in batches of like length, so that padding is not computed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from millirec.data.dataset import TRAIN, Dataset
from millirec.data.encode import Batch, encode


@dataclass(frozen=True, slots=True)
class TrainBatch:
    """`inputs` (B, L) and, for each of their places, the next item: `targets` int64 (B, L), 0 = none."""

    inputs: Batch
    targets: NDArray[np.int64]


class TrainingSequences:
    """Each user's training events, the newest `max_length` + 1 of them."""

    def __init__(self, dataset: Dataset, max_length: int) -> None:
        seq = dataset.sequences
        train = seq.roles == TRAIN
        self.items, self.times = seq.items[train], seq.times[train]
        counts = np.bincount(seq.users[train], minlength=len(dataset.users) + 1)
        self.stops = np.cumsum(counts)
        self.starts = np.maximum(self.stops - counts, self.stops - max_length - 1)
        self.users = np.flatnonzero(counts >= 2)
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.users)

    def plan(self, batch_size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """The users of every batch of one epoch: sorted by length with ties at random, batches in random order."""
        lengths = (self.stops - self.starts)[self.users]
        jitter = rng.random(len(lengths))
        order = self.users[np.lexsort((jitter, lengths))]
        cuts = range(int(rng.integers(1, batch_size + 1)), len(order), batch_size)
        batches = np.split(order, list(cuts))
        return [batches[i] for i in rng.permutation(len(batches))]

    def batch(self, users: NDArray[np.int64]) -> TrainBatch:
        """Inputs and targets of these users."""
        spans = [slice(self.starts[user], self.stops[user]) for user in users]
        items = [self.items[span] for span in spans]
        inputs = encode([row[:-1] for row in items], [self.times[span][:-1] for span in spans], self.max_length)
        targets = np.zeros(inputs.items.shape, np.int64)
        for i, row in enumerate(items):
            targets[i, : len(row) - 1] = row[1:]
        return TrainBatch(inputs, targets)
