"""A small world whose features are of every kind, and logs of it. Shared by the tests of features and rankers."""

from typing import Any

import numpy as np

from millirec.data.catalog import Catalog, Categorical, MultiValued, Numeric, Vocabulary
from millirec.data.dataset import Dataset, Interactions
from millirec.data.features import FieldConfig
from millirec.data.features.config import (
    AgeField,
    CategoricalField,
    ClockField,
    CounterField,
    CrossField,
    GapField,
    HashedField,
    MomentField,
    MultiValuedField,
    NumericField,
    SequenceField,
)

HOUR, DAY = 3_600_000, 86_400_000


def users(n: int = 6) -> Catalog:
    """People with a `plan`, every third one without."""
    codes = np.array([-1, *(i % 3 - 1 for i in range(1, n + 1))], np.int32)
    return Catalog(Vocabulary([f"u{i}" for i in range(1, n + 1)]), {"plan": Categorical(("free", "paid"), codes)})


def items(n: int = 8) -> Catalog:
    """Things with a `shop`, `tags` (item i has i % 3 of them) and a `price`, which item 3 lacks."""
    prices = np.array([np.nan, *(10.0 * i for i in range(1, n + 1))], np.float32)
    prices[3] = np.nan
    counts = [0, *(i % 3 for i in range(1, n + 1))]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    tags = MultiValued(("x", "y", "z"), np.arange(offsets[-1], dtype=np.int32) % 3, offsets)
    shops = Categorical(("a", "b"), np.array([-1, *(i % 2 for i in range(1, n + 1))], np.int32))
    features = {"shop": shops, "tags": tags, "price": Numeric(prices)}
    return Catalog(Vocabulary([f"i{i}" for i in range(1, n + 1)]), features)


FIELDS: tuple[FieldConfig, ...] = (
    CategoricalField(name="user", source="user"),
    CategoricalField(name="item", source="item", min_count=2),
    CategoricalField(name="plan", source="user.plan"),
    CategoricalField(name="priced", source="item.price", max_size=3),
    HashedField(name="item#", source="item", size=5),
    MultiValuedField(name="tags", source="item.tags", max_values=1),
    NumericField(name="price", source="item.price"),
    NumericField(name="dear", source="item.price", scale="buckets", buckets=3),
    ClockField(name="hour", part="hour", offset_hours=2),
    ClockField(name="weekday", part="weekday"),
    AgeField(name="age"),
    GapField(name="gap"),
    GapField(name="gap bucket", scale="buckets", buckets=4),
    MomentField(name="moment"),
    CounterField(name="item rate 1h", by=("item",), window="1h"),
    CounterField(name="item events 1d", by=("item",), window="1d", what="events", scale="log"),
    CounterField(name="user rate", by=("user",), smoothing=2.0),
    CounterField(name="plan by shop", by=("user.plan", "item.shop"), window="7d", what="positives"),
    CounterField(name="pair", by=("user", "item"), window="30d", what="events"),
    CrossField(name="plan x shop", sources=("user.plan", "item.shop"), size=7),
    SequenceField(name="seen", of="item", length=4),
    SequenceField(name="liked", of="item", length=3, only="positive"),
    SequenceField(name="disliked", of="item", length=2, only="negative"),
)


def dataset_of(log: list[tuple[int, int, int, float]], n_users: int = 6, n_items: int = 8) -> Dataset:
    """Events (user row, item row, milliseconds, value) in order of arrival, not split."""
    columns: list[Any] = list(zip(*log, strict=True))
    kinds = (np.int32, np.int32, np.int64, np.float32)
    arrays = [np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    return Dataset.of(Interactions(*arrays), items(n_items), users(n_users), "world")
