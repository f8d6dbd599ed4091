"""Small models on MovieLens-100k for the benchmarks of serving: each trained in a minute or two of one core."""

from typing import Any

from benchmarks.quality.sets import read_set, source, split_config
from benchmarks.quality.train import RUNS, run_command
from millirec.config import dumps
from millirec.data.dataset import Dataset
from millirec.data.sources import read
from millirec.data.split import split
from millirec.models.checkpoint import Checkpoint

SET, PROTOCOL, SEED = "ml100k", "leave-last-out", 42
TRAIN = {"batch_size": 32, "learning_rate": 2e-3, "warmup_steps": 200, "validate_every": 2}
MODELS: dict[str, dict[str, Any]] = {
    "sasrec": {
        "model": {"kind": "sasrec", "feed_forward": 1, "max_length": 100},
        "train": TRAIN | {"epochs": 30, "decay_epochs": 30},
    },
    "gru4rec": {
        "model": {"kind": "gru4rec", "embedding_dim": 64, "hidden_dim": 96, "max_length": 100},
        "train": TRAIN | {"epochs": 20, "decay_epochs": 20},
    },
    "linear-recurrent": {
        "model": {"kind": "linear-recurrent", "max_length": 100},
        "train": TRAIN | {"epochs": 20, "schedule": "cosine"},
    },
    "hstu": {
        "model": {"kind": "hstu", "embedding_dim": 48, "blocks": 3, "max_length": 100},
        "train": TRAIN | {"epochs": 20, "schedule": "cosine"},
    },
}


def checkpoint_of(name: str) -> Checkpoint:
    """The trained model; trained now when there is none of the same config yet."""
    label = f"small-{SET}-{name}-{SEED}"
    folder, config = RUNS / label, RUNS / f"{label}.toml"
    text = dumps(MODELS[name] | {"machine": {"seed": SEED, "device": "cpu", "threads": 1}})
    marker = RUNS / f"{label}.done"
    if not (marker.exists() and config.exists() and marker.read_text() == text):
        spec = read_set(SET)
        run_command(label, source(spec, PROTOCOL), split_config(spec, PROTOCOL), text, resume=True)
        marker.write_text(text)
    return Checkpoint.load(folder / "checkpoint")


def dataset() -> Dataset:
    """What they were trained on, split as then."""
    spec = read_set(SET)
    return split(read(source(spec, PROTOCOL)), split_config(spec, PROTOCOL))


if __name__ == "__main__":
    for one in MODELS:
        checkpoint_of(one)
