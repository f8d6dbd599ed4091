"""The ring closes: what a server observes is what the next model learns from."""

from pathlib import Path

import httpx

from millirec.data.dataset import TEST
from millirec.data.sources import LogConfig, read
from millirec.data.split import LeaveLastOut, split
from millirec.models.popularity import PopularityConfig
from millirec.train.evaluate import evaluate
from millirec.train.fit import fit
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.trainer import TrainConfig
from tests.bundles import tiny_bundle
from tests.serving import event, served


def test_a_servers_log_trains_the_next_model(tmp_path: Path) -> None:
    events = [
        event(f"u{u}", f"i{1 + (u + step) % 9}", timestamp=1_000_000 + step) for u in range(12) for step in range(5)
    ]
    with served(tiny_bundle(tmp_path), tmp_path / "server") as server, httpx.Client(base_url=server.url) as client:
        assert client.post("/feedback", json=events).json() == {"accepted": 60}
        assert client.post("/feedback", json=event("u0", "never-heard-of")).json() == {"accepted": 1}
    dataset = split(read(LogConfig(path=str(server.data))), LeaveLastOut())
    assert len(dataset.interactions) == 61
    assert "never-heard-of" in dataset.items.vocabulary
    checkpoint = fit(dataset, PopularityConfig(), TrainConfig(), Machine(threads=1), Silent())
    assert evaluate(checkpoint, dataset, TEST).n_targets == 12
