"""Offline equals online: held-out users of MovieLens-100k replayed over HTTP against a running server."""

from pathlib import Path

import httpx
import numpy as np
import pytest

from millirec.bundle import PackConfig, open_bundle, pack
from millirec.data.dataset import TEST, Dataset
from millirec.data.sources import read
from millirec.data.sources.movielens import MovieLensConfig
from millirec.data.split import LeaveLastOut, split, targets
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore
from millirec.frontier.replay import replay
from millirec.metrics.ranking import from_ranks, ndcg
from millirec.models.sasrec import SASRecConfig
from millirec.train.evaluate import ndcg_at_10, rank_checkpoint
from millirec.train.fit import fit
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.trainer import TrainConfig
from tests.serving import served

MODEL = SASRecConfig(embedding_dim=32, blocks=1, heads=1, max_length=50)
TRAINING = TrainConfig(epochs=3, learning_rate=5e-3, batch_size=16)


@pytest.fixture(scope="module")
def dataset(shared_data: Path) -> Dataset:
    return split(read(MovieLensConfig(path=str(shared_data / "ml-100k"))), LeaveLastOut())


def over_http(url: str, dataset: Dataset) -> np.ndarray:
    """Feed every user's history, ask, note the rank of the held-out item, feed it too."""
    seq, items, users = dataset.sequences, dataset.items.vocabulary, dataset.users.vocabulary
    asked = targets(dataset, TEST)

    def event(place: int) -> dict[str, object]:
        user, item = users.id(int(seq.users[place])), items.id(int(seq.items[place]))
        return {
            "event": "interaction",
            "user": user,
            "item": item,
            "type": "rating",
            "timestamp": int(seq.times[place]),
        }

    history = [event(p) for start, place in zip(asked.starts, asked.places, strict=True) for p in range(start, place)]
    ranks = np.full(len(asked), len(dataset.items), np.int64)
    with httpx.Client(base_url=url, timeout=60) as client:
        for start in range(0, len(history), 5_000):
            part = history[start : start + 5_000]
            answer = client.post("/feedback", json=part)
            assert answer.json() == {"accepted": len(part)}
        for i, place in enumerate(asked.places):
            wanted = event(int(place))
            answer = client.post("/recommend", json={"user": wanted["user"], "k": 100}).json()
            found = [entry["item"] for entry in answer["items"]]
            if wanted["item"] in found:
                ranks[i] = found.index(wanted["item"]) + 1
            assert client.post("/feedback", json=wanted).status_code == 200
    return ranks


def test_the_server_has_the_offline_ndcg_of_its_bundle(dataset: Dataset, tmp_path: Path) -> None:
    checkpoint = fit(dataset, MODEL, TRAINING, Machine(threads=1), Silent())
    pack(checkpoint, tmp_path / "bundle", PackConfig())
    with StateStore.temporary() as store:
        offline = replay(Engine(open_bundle(tmp_path / "bundle"), store), dataset, TEST).ranks
    with served(tmp_path / "bundle", tmp_path / "server") as server:
        online = over_http(server.url, dataset)
    figures = [ndcg(from_ranks(r, 10), np.ones(len(r), np.int64), 10).mean() for r in (offline, online)]
    assert figures[0] > 0.02, "an untrained model would prove little"
    assert figures[1] == pytest.approx(figures[0], abs=5e-5)
    network = rank_checkpoint(checkpoint, dataset, targets(dataset, TEST), repeats=False).ranks
    assert figures[0] == pytest.approx(ndcg_at_10(network), abs=1e-4)
