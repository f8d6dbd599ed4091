"""A small world under global time with a teacher and rankers of it, made once for all tests of second stages."""

from functools import cache

import numpy as np
import torch

from millirec.compress.workshop import Workshop
from millirec.data.dataset import Dataset
from millirec.data.features.config import CategoricalField, CounterField, FieldConfig, NumericField, SequenceField
from millirec.data.labels import LabelConfig
from millirec.data.split import GlobalTime, split
from millirec.frontier.config import Measure
from millirec.frontier.rankers import by_rows
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import build
from millirec.models.gru4rec import GRU4RecConfig
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.models.rankers.dnn import DNNConfig
from millirec.train.candidates import CandidateConfig, candidate_rows, found_for
from millirec.train.fit import provenance_of
from millirec.train.fit_ranker import RankerPlan, RankerRows, Training, fit_ranker, fit_rows
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.rank_config import RankTrainConfig
from tests.data.features.world import HOUR, dataset_of

START = 1_700_000_000_000
LABEL = LabelConfig(positive_above=3, negative_below=3)  # three stars are history only
USERS, ITEMS = 24, 40
FIELDS: tuple[FieldConfig, ...] = (
    CategoricalField(name="user", source="user"),
    CategoricalField(name="item", source="item"),
    NumericField(name="price", source="item.price"),
    CounterField(name="item rate", by=("item",)),
    CounterField(name="item events", by=("item",), what="events", scale="log"),
    SequenceField(name="liked", of="item", length=3, only="positive"),
)
FOUND: tuple[FieldConfig, ...] = (*FIELDS, NumericField(name="rank", source="context.retrieval_rank", scale="log"))
CANDIDATES = CandidateConfig(targets=0, candidates=20, negatives=4)
MODEL = GRU4RecConfig(embedding_dim=16, hidden_dim=16, max_length=8)  # its graph is the quickest to write
NETWORK = DNNConfig(embedding_dim=8, hidden=(16, 8), dropout=0.0)
TRAIN = RankTrainConfig(epochs=3, batch_size=64, learning_rate=0.01)
MACHINE = Machine(threads=1)
QUICK = Measure(rounds=1, seconds=0.2, warm_up=0.1, connections=4, known_users=4, history=4)


@cache
def world() -> Dataset:
    """People who take things they did not have, the cheap ones rather, and like those of one shop."""
    rng = np.random.default_rng(3)
    rows = []
    for user in range(1, USERS + 1):
        items = 1 + np.argsort(np.arange(ITEMS) + rng.normal(0, 12, ITEMS))[: ITEMS - 12]
        times = np.sort(rng.choice(4_000, len(items), replace=False))
        for item, time in zip(items.tolist(), times.tolist(), strict=True):
            stars = 3.0 if rng.random() < 0.2 else 5.0 if (user + item) % 2 else 1.0
            rows.append((user, item, START + int(time) * HOUR, stars))
    rows.sort(key=lambda row: row[2])
    return split(dataset_of(rows, USERS, ITEMS), GlobalTime(validation=0.2, test=0.2))


@cache
def teacher() -> Checkpoint:
    """A sequence model of random parameters that says it comes of this world."""
    torch.manual_seed(0)
    parameters = dict(build(MODEL, ITEMS).state_dict())
    return Checkpoint(MODEL, parameters, world().items, world().popularity, provenance_of(world()))


@cache
def logged() -> RankerCheckpoint:
    """A ranker that learned from the rows of the log."""
    plan = RankerPlan(label=LABEL, features=FIELDS, ranker=NETWORK, train=TRAIN, machine=MACHINE)
    return fit_ranker(by_rows(world(), LABEL), plan, Silent())[0]


@cache
def found() -> RankerCheckpoint:
    """A ranker that learned from what the teacher retrieves."""
    rows, featuriser = candidate_rows(world(), LABEL, found_for(teacher(), world(), CANDIDATES), FOUND, CANDIDATES)
    what = RankerRows(rows, featuriser, LABEL, provenance_of(world()), CANDIDATES)
    return fit_rows(what, NETWORK, Training(train=TRAIN, machine=MACHINE, journal=Silent()))


def workshop() -> Workshop:
    """To make variants in."""
    return Workshop(read=world, machine=MACHINE)
