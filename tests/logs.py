"""Small logs whose right answers are known. Shared by tests of many rooms."""

import numpy as np

from millirec.data.catalog import Catalog, Vocabulary
from millirec.data.dataset import Dataset, Interactions
from millirec.data.split import LeaveLastOut, split


def dataset_of(sequences: list[list[int]], n_items: int | None = None) -> Dataset:
    """One user for each list of item rows (1..n), an event a second, not split."""
    users = np.concatenate([np.full(len(s), u) for u, s in enumerate(sequences, start=1)]).astype(np.int32)
    items = np.concatenate(sequences).astype(np.int32)
    times = np.concatenate([np.arange(len(s)) * 1000 for s in sequences]).astype(np.int64)
    n = n_items or int(items.max())
    catalog = Catalog(Vocabulary([f"i{row}" for row in range(1, n + 1)]))
    people = Catalog(Vocabulary([f"u{row}" for row in range(1, len(sequences) + 1)]))
    return Dataset.of(Interactions(users, items, times), catalog, people)


def checkerboard(n_users: int = 60, n_items: int = 20, length: int = 8, seed: int = 0) -> Dataset:
    """Users with an even number only ever take even items, the others odd ones; split by leave-last-out."""
    rng = np.random.default_rng(seed)
    sequences = []
    for user in range(n_users):
        own = np.arange(1, n_items + 1)
        own = own[own % 2 == user % 2]
        sequences.append(rng.permutation(own)[:length].tolist())
    return split(dataset_of(sequences, n_items), LeaveLastOut())


def cycle(n_users: int = 40, n_items: int = 12, length: int = 9, seed: int = 0) -> Dataset:
    """Everybody walks a circle of items from a random start: the next item is certain; leave-last-out."""
    starts = np.random.default_rng(seed).integers(0, n_items, n_users)
    sequences = [((start + np.arange(length)) % n_items + 1).tolist() for start in starts]
    return split(dataset_of(sequences, n_items), LeaveLastOut())
