"""Tiny bundles made by the real packer from an untrained network: fast, and the same every time."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch

from millirec.bundle import PackConfig, pack
from millirec.data.catalog import Catalog, Categorical, Vocabulary
from millirec.data.lineage import Provenance
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import build
from millirec.models.sasrec import SASRecConfig

GENRES = ("comedy", "drama", "war")


def untrained(n_items: int = 60, config: SASRecConfig | None = None, seed: int = 0) -> Checkpoint:
    """A checkpoint of random parameters. Items are i1..in, item i has genre `GENRES[i % 3]` and popularity n - i."""
    config = config or SASRecConfig(embedding_dim=16, blocks=1, heads=2, max_length=20)
    torch.manual_seed(seed)
    network = build(config, n_items)
    rows = np.arange(n_items + 1)
    codes = np.where(rows > 0, rows % len(GENRES), -1).astype(np.int32)
    catalog = Catalog(Vocabulary([f"i{row}" for row in rows[1:]]), {"genre": Categorical(GENRES, codes)})
    return Checkpoint(
        config,
        dict(network.state_dict()),
        catalog,
        np.where(rows > 0, n_items - rows, 0).astype(np.int64),
        Provenance(fingerprint="none", protocol="none", n_events=0, trained_until=0),
    )


def tiny_bundle(folder: Path, name: str = "tiny", seed: int = 0) -> Path:
    """A packed bundle of 60 items below `folder`: a copy of its own; packed once in a test run."""
    return Path(shutil.copytree(_packed(name, seed), folder / name))


@cache
def _packed(name: str, seed: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="millirec-bundle-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return pack(untrained(seed=seed), folder / name, PackConfig(name=name)).folder
