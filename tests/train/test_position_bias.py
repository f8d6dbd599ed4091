"""Clicks fall off down a list: a ranker that knows the place of each row recovers what people like, a blind one the
order in which things were shown."""

from typing import Any

import numpy as np
import pytest

from millirec.data.dataset import Dataset
from millirec.data.event import Event
from millirec.data.features import Facts, split_rows
from millirec.data.features.config import CategoricalField, FieldConfig
from millirec.data.features.rows import RandomRows
from millirec.data.labels import LabelConfig, labels_of
from millirec.data.sources.impressions import ImpressionsConfig, Shown, joined
from millirec.models.rankers.lr import LRConfig
from millirec.train.fit_ranker import RankerPlan, fit_ranker
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.rank_config import RankTrainConfig

N = 12
LABEL = LabelConfig(positive_above=0)
RELEVANCE = np.linspace(0.1, 0.6, N)[np.random.default_rng(3).permutation(N)]
"""The chance that an item that is looked at is clicked."""
EXAMINED = 1 / np.arange(1, N + 1)
"""The chance that a place is looked at. Richardson et al., WWW 2007."""


@pytest.fixture(scope="module")
def shown() -> Dataset:
    """6,000 lists in an order that leans against what people like."""
    rng = np.random.default_rng(0)
    lists, events = [], []
    for number in range(6000):
        order = np.argsort(RELEVANCE + rng.normal(0, 0.25, N))
        now = 60_000 * number
        items = tuple(f"i{item}" for item in order)
        lists.append(Shown(request_id=str(number), time=now, items=items, propensities=(1.0,) * N, user="u"))
        clicked = rng.random(N) < EXAMINED * RELEVANCE[order]
        context = {"request_id": str(number)}
        events += [
            Event(user="u", item=item, time=now + 1000, action="click", context=context)
            for item, hit in zip(items, clicked, strict=True)
            if hit
        ]
    dataset = joined(lists, events, ImpressionsConfig(path="", within_hours=0.01), "clicks")
    return split_rows(dataset, labels_of(dataset, LABEL), RandomRows())


def order_of(dataset: Dataset, *fields: FieldConfig) -> float:
    """The rank correlation of a ranker's scores, asked as a server asks, with what people like."""
    plan = RankerPlan(
        label=LABEL,
        features=(CategoricalField(name="item", source="item"), *fields),
        ranker=LRConfig(),
        train=RankTrainConfig(epochs=4, learning_rate=0.05, l2_embeddings=0.0),
        machine=Machine(threads=1),
    )
    checkpoint, _ = fit_ranker(dataset, plan, Silent())
    rows = np.array([dataset.items.vocabulary.row(f"i{item}") for item in range(N)])
    features = checkpoint.featuriser.features(Facts(np.ones(N, np.int64), rows, np.zeros(N, np.int64)))
    places = [values.argsort().argsort() for values in (checkpoint.chances(features), RELEVANCE)]
    return float(np.corrcoef(*places)[0, 1])


def test_the_place_as_an_input_that_is_fixed_when_served_recovers_what_people_like(shown: Any) -> None:
    place = CategoricalField(name="place", source="context.position", fixed=1)
    assert order_of(shown, place) > 0.9
    assert order_of(shown) < 0.5
