"""Tiny bundles with a ranker: an untrained sequence model over the world of the features' tests, and a ranker of it."""

import atexit
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from millirec.bundle import Bundle, PackConfig, RankerPart, open_bundle, pack
from millirec.cascade.cascade import CascadeConfig
from millirec.cascade.scorers import InnerProductScorer, PreRankerScorer, RankerScorer
from millirec.data.dataset import Dataset
from millirec.data.features import Featuriser, FieldConfig, Needs, known_events, split_rows
from millirec.data.features.config import CategoricalField, CrossField, NumericField
from millirec.data.features.rows import facts_of
from millirec.data.labels import LabelConfig, labels_of
from millirec.data.split import GlobalTime
from millirec.models.checkpoint import Checkpoint
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.models.rankers.config import build_ranker
from millirec.models.rankers.dnn import DNNConfig
from millirec.models.rankers.lr import LRConfig
from millirec.train.fit import provenance_of
from tests.bundles import untrained
from tests.data.features.world import FIELDS, HOUR, dataset_of

LABEL = LabelConfig(positive_above=0)
RANK_FIELDS: tuple[FieldConfig, ...] = (
    *FIELDS,
    CategoricalField(name="page", source="context.page"),
    NumericField(name="retrieval score", source="context.retrieval_score"),
    NumericField(name="retrieval rank", source="context.retrieval_rank", scale="log"),
    CrossField(name="page x shop", sources=("context.page", "item.shop"), size=9),
)
START = 1_700_000_000_000


def history(n: int = 400, seed: int = 0) -> Dataset:
    """A log of the small world, split by time: 6 users, 8 items, an event every half hour."""
    rng = np.random.default_rng(seed)
    rows = [
        (int(rng.integers(1, 7)), int(rng.integers(1, 9)), START + i * HOUR // 2, float(rng.integers(0, 2)))
        for i in range(n)
    ]
    data = dataset_of(rows)
    return split_rows(data, labels_of(data, LABEL), GlobalTime())


@cache
def rankers() -> tuple[Checkpoint, RankerCheckpoint, Dataset]:
    """A sequence model and a ranker of random parameters over `history`."""
    config, data = DNNConfig(embedding_dim=4, hidden=(16, 8)), history()
    labels = labels_of(data, LABEL)
    places = np.flatnonzero(data.roles == 0)
    facts = facts_of(data, labels, places, Needs.of(RANK_FIELDS))
    n = len(places)
    context = {
        "page": np.array(["home", "cart"] * n, object)[:n],
        "retrieval_score": np.linspace(-1, 1, n),
        "retrieval_rank": np.arange(n) % 8 + 1.0,
    }
    facts = replace(facts, context=context)
    featuriser = Featuriser.fit(RANK_FIELDS, facts, labels[places], data.users, data.items)
    torch.manual_seed(1)
    network = build_ranker(config, featuriser.schema())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    ranker = RankerCheckpoint(config, dict(network.state_dict()), featuriser, LABEL, provenance_of(data))
    return replace(untrained(8), catalog=data.items), ranker, data


def part(**more: Any) -> RankerPart:
    """The ranker to be packed; its features know what came before the test part."""
    _, ranker, data = rankers()
    return RankerPart(ranker, known_events(data, labels_of(data, LABEL)), **more)


@cache
def light() -> RankerPart:
    """A cheaper ranker of the same world, to choose the candidates of the other."""
    _, ranker, data = rankers()
    fields = tuple(field for field in RANK_FIELDS if field.name in ("item", "retrieval rank", "page"))
    own = Featuriser(
        fields, {field.name: ranker.featuriser.learned[field.name] for field in fields}, data.users, data.items
    )
    config = LRConfig()
    torch.manual_seed(2)
    network = build_ranker(config, own.schema())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn(parameter.shape)
    made = RankerCheckpoint(config, dict(network.state_dict()), own, LABEL, provenance_of(data))
    return RankerPart(made, known_events(data, labels_of(data, LABEL)))


def pre_ranked_bundle(folder: Path) -> Path:
    """A bundle with both, 7 candidates and then 4, below `folder`."""
    scorers = (InnerProductScorer(), PreRankerScorer(candidates=7), RankerScorer(candidates=4))
    config = PackConfig(cascade=CascadeConfig(scorers=scorers))
    return pack(rankers()[0], folder / "pre-ranked", config, part(pre=light())).folder


def ranked_bundle(folder: Path) -> Path:
    """A packed bundle of both below `folder`: a copy of its own; packed once in a test run."""
    return Path(shutil.copytree(_packed(), folder / "ranked"))


def opened() -> Bundle:
    """The same, for who changes nothing."""
    return open_bundle(_packed())


@cache
def _packed() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="millirec-ranked-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return pack(rankers()[0], folder / "ranked", None, part()).folder
