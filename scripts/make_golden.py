"""Make tests/golden/v1: a tiny bundle that every later version must read, and the numbers that it gave.

Run once, when version 1 of the manifest was fixed; it refuses to overwrite. A new schema gets a new folder.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from millirec.bundle import PackConfig, pack
from millirec.data.catalog import Catalog, Categorical, MultiValued, Numeric, Text, Vocabulary
from millirec.data.encode import encode
from millirec.data.lineage import Provenance, Step
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import SASRecConfig, build

N_ITEMS = 24
HISTORIES = (("item-3",), ("item-1", "item-2", "item-3"), tuple(f"item-{i}" for i in range(1, 13)))


def checkpoint() -> Checkpoint:
    """A small network with random weights, and a catalogue with one feature of each kind."""
    torch.manual_seed(1)
    config = SASRecConfig(embedding_dim=8, blocks=1, heads=2, max_length=10)
    network = build(config, N_ITEMS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        network.item.weight[0].zero_()
    rows = np.arange(N_ITEMS + 1)
    features = {
        "kind": Categorical(("film", "série"), np.where(rows % 5 == 0, -1, rows % 2).astype(np.int32)),
        "genre": MultiValued(
            ("Drama", "Comedy"),
            (rows[1:] % 2).astype(np.int32),
            np.maximum(np.arange(-1, N_ITEMS + 1), 0).astype(np.int32),
        ),
        "year": Numeric(np.where(rows % 7 == 0, np.nan, 1980 + rows).astype(np.float32)),
        "title": Text(("", *(f"Title {row}" for row in rows[1:]))),
    }
    return Checkpoint(
        config,
        network.state_dict(),
        Catalog(Vocabulary([f"item-{row}" for row in rows[1:]]), features),
        np.concatenate([[0], rows[1:][::-1]]).astype(np.int64),
        Provenance(fingerprint="0" * 64, protocol="leave-last-out", n_events=300, trained_until=1_000_000),
        (Step(name="train", settings={"epochs": 0}, millirec="0.1.0"),),
        {"ndcg@10": 0.125},
    )


def main() -> None:
    """Write the bundle and expected.json."""
    folder = Path(__file__).resolve().parents[1] / "tests" / "golden" / "v1"
    if (folder / "bundle").exists():
        sys.exit(f"{folder / 'bundle'} is kept for ever: make another folder for another schema")
    folder.mkdir(parents=True, exist_ok=True)
    bundle = pack(checkpoint(), folder / "bundle", PackConfig(name="golden"))
    batch = encode([bundle.catalog.vocabulary.rows(h) for h in HISTORIES], None, bundle.max_length)
    session = bundle.encoder.session()
    vectors = session.run(["user_vectors"], {"items": batch.items, "lengths": batch.lengths})[0]
    found = bundle.index.search(vectors, 5)
    expected = {
        "version": bundle.version,
        "histories": HISTORIES,
        "user_vectors": vectors.tolist(),
        "top": [[bundle.catalog.vocabulary.id(row) for row in rows] for rows in found.rows.tolist()],
        "scores": found.scores.tolist(),
    }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
