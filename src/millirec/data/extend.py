"""A newer log over the rows of an older catalogue: old items keep their rows, new ones come after them."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from millirec.data.catalog import Catalog, Categorical, Feature, MultiValued, Numeric, Text, Vocabulary
from millirec.data.dataset import Dataset
from millirec.data.sources.assemble import pick


def extended(dataset: Dataset, catalog: Catalog) -> Dataset:
    """The same events, with item rows that begin with those of `catalog`; the same object when they already do.

    Items that only `catalog` knows keep their rows, without events. The columns are those of the data set; an item
    that it does not know has what `catalog` says of it.
    """
    own, old = dataset.items.vocabulary, catalog.vocabulary
    if own.ids[: len(old)] == old.ids:
        return dataset
    ids = (*old.ids, *(name for name in own.ids if name not in old))
    vocabulary = Vocabulary(ids)
    rows = np.concatenate([[0], vocabulary.rows(own.ids)]).astype(np.int32)
    log = replace(dataset.interactions, items=rows[dataset.interactions.items])
    here, there = own.rows(ids), old.rows(ids)
    # Rows of the two columns, one behind the other, that make the new column.
    source = np.concatenate([[0], np.where(here > 0, here, len(own) + 1 + there)])
    features = {
        name: pick(_joined(feature, _of_same_kind(catalog.features.get(name), feature, len(old))), source)
        for name, feature in dataset.items.features.items()
    }
    return replace(dataset, interactions=log, items=Catalog(vocabulary, features))


def _of_same_kind(feature: Feature | None, like: Feature, n: int) -> Feature:
    """The column over `n` entries, or one of missing values when it is absent or holds something else."""
    if type(feature) is type(like) and feature is not None:
        wide = not (isinstance(feature, Numeric) and isinstance(like, Numeric)) or (
            feature.numbers.shape[1:] == like.numbers.shape[1:]
        )
        if wide:
            return feature
    match like:
        case Categorical():
            return Categorical((), np.full(n + 1, -1, np.int32))
        case MultiValued():
            return MultiValued((), np.empty(0, np.int32), np.zeros(n + 2, np.int32))
        case Numeric(numbers):
            return Numeric(np.full((n + 1, *numbers.shape[1:]), np.nan, np.float32))
        case Text():
            return Text(("",) * (n + 1))


def _joined(first: Feature, second: Feature) -> Feature:
    """Two columns of one kind, one behind the other, row 0 of both included."""
    match first, second:
        case Categorical(), Categorical():
            values, codes = _recoded(first.values, second.values, second.codes)
            return Categorical(values, np.concatenate([first.codes, codes]))
        case MultiValued(), MultiValued():
            values, codes = _recoded(first.values, second.values, second.codes)
            offsets = np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]).astype(np.int32)
            return MultiValued(values, np.concatenate([first.codes, codes]), offsets)
        case Numeric(), Numeric():
            return Numeric(np.concatenate([first.numbers, second.numbers]))
        case Text(), Text():
            return Text(first.texts + second.texts)
    raise TypeError(f"{type(first).__name__} and {type(second).__name__} are columns of different kinds")


def _recoded(
    values: tuple[str, ...], others: tuple[str, ...], codes: NDArray[np.int32]
) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """The union of two lists of values, and codes of the second list as codes of the union; -1 stays."""
    known = set(values)
    union = (*values, *(value for value in others if value not in known))
    place = {value: code for code, value in enumerate(union)}
    table = np.array([*(place[value] for value in others), -1], np.int32)
    return union, table[codes]
