"""A small teacher that is trained once for all tests of this room, and speeds that nobody measured."""

from functools import cache

from millirec.data.dataset import Dataset
from millirec.frontier.config import Measure
from millirec.frontier.visit import Visit
from millirec.models.checkpoint import Checkpoint
from millirec.models.gru4rec import GRU4RecConfig
from millirec.train.fit import fit
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.trainer import TrainConfig
from tests.logs import cycle

MODEL = GRU4RecConfig(embedding_dim=16, hidden_dim=16, max_length=8)  # its graph is the quickest to write
QUICK = Measure(rounds=2, seconds=0.2, warm_up=0.1, known_users=4, history=4)


@cache
def taught() -> tuple[Checkpoint, Dataset]:
    """A teacher that has nearly learned a circle of items, and the circle."""
    dataset = cycle()
    training = TrainConfig(epochs=6, batch_size=8, learning_rate=0.02)
    return fit(dataset, MODEL, training, Machine(threads=1), Silent()), dataset


def pretended(requests: float, p99: float = 1.0) -> Visit:
    """A visit as it might have been."""
    return Visit(
        start_seconds=1.0, requests_per_second=requests, cpu=1.0, cpu_seconds=0.2, memory_mb=90.0, p50_ms=p99 / 2,
        p90_ms=p99 / 1.2, p99_ms=p99, stages={"encode": (1.0, 2.0, 3.0)}, errors={}, short=False,
    )  # fmt: skip
