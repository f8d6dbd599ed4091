"""Each cascade in `examples/` answers from a bundle that was trained on a small simulated log."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from millirec.bundle import Bundle, pack
from millirec.cascade.query import Query, Ranking
from millirec.cascade.rules import Boost
from millirec.cli.engine import cascade_config
from millirec.data.dataset import Dataset
from millirec.data.event import Event
from millirec.data.simulate import simulate
from millirec.data.split import LeaveLastOut, split
from millirec.data.world import SimulatedConfig
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore
from millirec.models.sasrec import SASRecConfig
from millirec.train.fit import fit
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.trainer import TrainConfig
from tests.conftest import ROOT

FOLDER = ROOT / "examples" / "cascades"
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml"))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    config = SimulatedConfig(users=150, items=250, events=4_000, categories=12)
    return split(simulate(config).dataset, LeaveLastOut())


@pytest.fixture(scope="module")
def bundle(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    model = SASRecConfig(embedding_dim=16, blocks=1, heads=1, max_length=20)
    checkpoint = fit(dataset, model, TrainConfig(epochs=2, learning_rate=5e-3), Machine(threads=1), Silent())
    return pack(checkpoint, tmp_path_factory.mktemp("examples") / "bundle")


@pytest.fixture(scope="module")
def engines(bundle: Bundle, dataset: Dataset) -> Iterator[dict[str, Engine]]:
    """An engine for each example, each of which has seen the log of 40 users."""
    made = {}
    seq, items, users = dataset.sequences, dataset.items.vocabulary, dataset.users.vocabulary
    events = [
        Event(user=users.id(int(user)), item=items.id(int(item)), time=int(time))
        for user, item, time in zip(seq.users, seq.items, seq.times, strict=True)
        if user <= 40
    ]
    for name in NAMES:
        made[name] = Engine(bundle, StateStore.temporary(), cascade=cascade_config(FOLDER / f"{name}.toml"))
        made[name].submit(events).result()
    yield made
    for engine in made.values():
        engine.close()


def answers(engine: Engine, dataset: Dataset, **more: object) -> list[Ranking]:
    names = dataset.users.vocabulary.ids[:40]
    found = engine.recommend_many([Query(user=name, k=8, request_id=name, **more) for name in names])  # type: ignore[arg-type]
    assert all(isinstance(answer, Ranking) for answer in found), found
    return found  # type: ignore[return-value]


def categories(engine: Engine, answer: Ranking) -> list[str]:
    rows = engine.bundle.catalog.vocabulary.rows(answer.items)
    member = engine._loaded.shelf.fields.of("category", rows)
    return [member.values[int(np.flatnonzero(line)[0])] for line in member.has]


def test_there_are_six() -> None:
    assert NAMES == ["ads", "music", "news", "shop", "social", "video"]


@pytest.mark.parametrize("name", NAMES)
def test_every_example_answers_everybody_in_full(engines: dict[str, Engine], dataset: Dataset, name: str) -> None:
    engine = engines[name]
    found = answers(engine, dataset)
    for answer in [*found, engine.recommend(Query(user="nobody", k=8))]:
        assert len(set(answer.items)) == 8
    assert len({answer.items for answer in found}) > 20
    repeats = name in ("music", "ads")
    for user, answer in zip(dataset.users.vocabulary.ids, found, strict=False):
        seen = engine.store.history(b"u:" + user.encode()).seen
        names = {engine.store.names()[code - 1] for code in seen[:200]}
        assert repeats or not names & set(answer.items)


def test_what_each_is_for(engines: dict[str, Engine], dataset: Dataset) -> None:
    for answer in answers(engines["shop"], dataset):
        assert max(Counter(categories(engines["shop"], answer)).values()) <= 4
    for answer in answers(engines["video"], dataset):
        assert max(Counter(categories(engines["video"], answer)).values()) <= 5
    for answer in answers(engines["news"], dataset):
        assert answer.sources is not None
        assert answer.sources.count("new") >= 2
        assert answer.sources.count("popular") <= 2
    friends = dataset.items.vocabulary.ids[:12]
    for answer in answers(engines["social"], dataset, own=friends):
        assert max(Counter(categories(engines["social"], answer)).values()) <= 2
        assert answer.propensities is not None
    ads = answers(engines["ads"], dataset)
    for answer in ads:
        assert max(Counter(categories(engines["ads"], answer)).values()) == 1
        assert answer.propensities is not None
        assert all(0 < share <= 1 for share in answer.propensities)
    kind = Counter(name for answer in ads for name in categories(engines["ads"], answer)).most_common()[-1][0]
    bids = answers(engines["ads"], dataset, boost=(Boost(where={"category": kind}, add=100),))
    assert all(kind in categories(engines["ads"], answer) for answer in bids)
