"""Item vectors in two tiers: who is fine, what is lost, what a bundle keeps, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from millirec.bundle import open_bundle, pack
from millirec.compress.anew import Train
from millirec.compress.distil import Distil
from millirec.compress.embedding import item_weights
from millirec.compress.product import ProductQuantize
from millirec.compress.prune import Prune
from millirec.compress.quantize import Quantize
from millirec.compress.recipe import Recipe, check, compress
from millirec.compress.structure import PruneStructure
from millirec.compress.tiers import Tier, most_taken
from millirec.compress.workshop import Workshop
from millirec.data.errors import ArtifactError, ConfigError
from millirec.index import ExactConfig, TableIndex, TableIndexConfig, TieredIndexConfig
from millirec.models.base import Inputs
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import GRU4RecConfig, LinearRecurrentConfig, SASRecConfig
from millirec.models.export import random_batch
from millirec.models.layers.table import Tiered
from millirec.train.config import TrainConfig
from millirec.train.fit import fit
from millirec.train.journal import Silent
from millirec.train.losses import BCE
from millirec.train.machine import Machine
from tests.bundles import untrained
from tests.logs import cycle
from tests.networks import small

SASREC = small(SASRecConfig)
COSINE = small(SASRecConfig, temperature=0.1)
TRAIN = TrainConfig(epochs=2, batch_size=8, learning_rate=0.02)
LINEAR = small(LinearRecurrentConfig, temperature=0.1)


def made(before: Checkpoint, *steps: Any) -> Checkpoint:
    return compress(before, Recipe(steps=steps), Workshop(machine=Machine(threads=1)))


def scattered(n_items: int, config: Any = SASREC) -> Checkpoint:
    """An untrained network whose much taken items stand anywhere."""
    before = untrained(n_items, config)
    before.popularity[1:] = np.random.default_rng(0).permutation(n_items)
    return before


def vectors(checkpoint: Checkpoint) -> torch.Tensor:
    with torch.inference_mode():
        return checkpoint.network().item.vectors()


def test_the_most_taken_by_hand() -> None:
    counts = np.array([99, 3, 7, 3, 0, 7, 3])  # row 0 is padding
    assert most_taken(counts, 0).tolist() == []
    assert most_taken(counts, 2).tolist() == [2, 5]
    assert most_taken(counts, 4).tolist() == [1, 2, 3, 5]  # rows 1, 3 and 6 are equal
    assert most_taken(counts, 6).tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("config", [SASREC, COSINE, LINEAR, small(GRU4RecConfig)], ids=repr)
def test_each_tier_is_as_its_own_kind_would_have_it(config: Any) -> None:
    before = scattered(40, config)
    after = made(before, Tier(share=0.25, codes=4, code_bits=4))
    assert after.config.table == Tiered(share=0.25, codes=4, code_bits=4)
    fine = most_taken(before.popularity, 10)
    coarse = np.setdiff1d(np.arange(1, 41), fine)
    levels = vectors(made(before, Quantize(weights=None, table_bits=4)))
    assert torch.equal(vectors(after)[fine], levels[fine])
    assert not vectors(after)[0].any()
    # every coarse item has the sub-vectors that come nearest to its own parts
    centroids = after.parameters["item.coarse.centroids"]
    own = before.parameters["item.weight"][coarse]
    if config.temperature is not None:  # directions of one length
        own = F.normalize(own, dim=1) * own.norm(dim=1).mean()
    parts = own.view(30, 4, 2).movedim(1, 0)
    nearest = torch.cdist(parts, centroids).min(2).values.square().sum(0)
    lost = (vectors(after)[coarse] - own).square().sum(1)
    torch.testing.assert_close(lost, nearest, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [SASREC, COSINE, LINEAR], ids=repr)
@pytest.mark.parametrize("bits", [4, 8])
def test_fine_items_may_have_codes_too(config: Any, bits: Any) -> None:
    before = scattered(200, config)
    after = made(before, Tier(share=0.25, fine_codes=8, bits=bits, codes=2, code_bits=4))
    assert after.config.table == Tiered(share=0.25, fine_codes=8, bits=bits, codes=2, code_bits=4)
    fine = most_taken(before.popularity, 50)
    own, got = before.parameters["item.weight"], vectors(after)
    if config.temperature is not None:  # directions, of one length in both tiers
        length = own[1:].norm(dim=1).mean()
        own = F.normalize(own, dim=1) * length
        assert after.config.temperature == pytest.approx(config.temperature * float(length))
    for rows, name in ((fine, "fine"), (np.setdiff1d(np.arange(1, 201), fine), "coarse")):
        centroids = after.parameters[f"item.{name}.centroids"]
        parts = own[rows].view(len(rows), len(centroids), -1).movedim(1, 0)
        nearest = torch.cdist(parts, centroids).min(2).values.square().sum(0)
        torch.testing.assert_close((got[rows] - own[rows]).square().sum(1), nearest, rtol=1e-4, atol=1e-5)
    assert (got[fine] - own[fine]).square().mean() < 0.2 * own[fine].square().mean()


def test_scores_of_cosines_keep_their_size_when_a_table_gets_codes() -> None:
    # what the network learned at one temperature it must not go on learning at another
    before = scattered(200, COSINE)
    inputs = Inputs.of(random_batch(200, 5, 8, seed=0))
    for step in (Tier(share=0.9, fine_codes=8, bits=8, codes=8), ProductQuantize(codes=8, bits=8)):
        after = made(before, step)
        scores = []
        for checkpoint in (before, after):
            network: Any = checkpoint.network()
            with torch.inference_mode():
                scores.append(network.user_vectors(inputs) @ network.item_vectors()[1:].T)
        assert (scores[1] - scores[0]).abs().max() < 0.1 * scores[0].abs().max()


@pytest.mark.parametrize("config", [SASREC, COSINE])
def test_codes_of_both_tiers_rest_while_their_sub_vectors_learn(config: Any, tmp_path: Path) -> None:
    teacher = fit(cycle(), config, TRAIN, Machine(threads=1), Silent())
    shop = Workshop(read=cycle, machine=Machine(threads=1))
    tiers = {"share": 0.5, "fine_codes": 8, "codes": 4, "code_bits": 4}
    before, after = (compress(teacher, Recipe(steps=(Tier(**tiers, train=how),)), shop) for how in (None, TRAIN))
    for name in ("item.slots", "item.fine.codes", "item.coarse.codes"):
        assert torch.equal(before.parameters[name], after.parameters[name])
    for name in ("item.fine.centroids", "item.coarse.centroids"):
        assert not torch.equal(before.parameters[name], after.parameters[name])
    bundle = pack(after, tmp_path / "b")
    assert bundle.manifest.index == TieredIndexConfig(fine_codes=8, bits=4, codes=4, code_bits=4)
    network: Any = after.network()
    with torch.inference_mode():
        want = network.item_vectors().numpy()[1:]
    found = open_bundle(tmp_path / "b").index
    assert found.vectors(np.arange(1, len(want) + 1, dtype=np.int32)) == pytest.approx(want, abs=1e-6)


def test_a_catalogue_too_small_for_two_tiers_is_packed_as_vectors(tmp_path: Path) -> None:
    after = made(scattered(20), Tier(share=0.01, fine_codes=4, codes=4))
    bundle = pack(after, tmp_path / "b")
    assert bundle.manifest.index == ExactConfig()


@pytest.mark.parametrize("config", [SASREC, COSINE])
def test_no_tier_and_one_tier(config: Any) -> None:
    before = scattered(30, config)
    assert torch.equal(
        vectors(made(before, Tier(share=1, codes=4))), vectors(made(before, Quantize(weights=None, table_bits=4)))
    )
    alike = made(before, Tier(share=0, codes=4, code_bits=4)), made(before, ProductQuantize(codes=4))
    assert torch.equal(vectors(alike[0])[1:], vectors(alike[1])[1:])


@pytest.mark.parametrize(("worse", "better"), [({"share": 0.1}, {"share": 0.5}), ({"codes": 2}, {"codes": 4})])
def test_more_bytes_lose_less(worse: dict[str, Any], better: dict[str, Any]) -> None:
    before = scattered(200)
    weights = torch.from_numpy(item_weights(before, 0.5))[:, None]
    lost = []
    for settings in (worse, better):
        after = made(before, Tier(**{"codes": 4, "code_bits": 4} | settings))
        lost.append(float((weights * (vectors(after) - before.parameters["item.weight"]).square()).sum()))
    assert lost[1] < lost[0]


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        (small(SASRecConfig, embedding_dim=32, blocks=1), None),
        (small(LinearRecurrentConfig, embedding_dim=32, blocks=1, temperature=0.1), None),
        (small(GRU4RecConfig, embedding_dim=32, layers=1, temperature=0.1), "int8"),
    ],
    ids=["sasrec", "linear-recurrent", "gru4rec"],
)
def test_a_bundle_keeps_one_copy_and_answers_as_the_network(config: Any, weights: str | None, tmp_path: Path) -> None:
    after = made(scattered(50, config), Tier(share=0.3))
    if weights is not None:
        after = made(after, Quantize(weights="int8"))
        assert after.config.table == Tiered(share=0.3)
    bundle = pack(after, tmp_path / "b")
    assert weights is not None or bundle.manifest.parity_error < 1e-5
    unit = config.temperature is not None
    assert bundle.manifest.index == TableIndexConfig(table="tiered", bits=4, unit=unit)
    network: Any = after.network()
    bundle = open_bundle(tmp_path / "b")
    with torch.inference_mode():
        want = network.item_vectors().numpy()[1:]
    assert bundle.index.vectors(np.arange(1, 51, dtype=np.int32)) == pytest.approx(want, abs=1e-6)
    for name in ("slots", "fine.codes", "fine.scale", "coarse.codes", "coarse.centroids"):
        mine = bundle.tensors[f"index/{name}"]
        same = [array for array in bundle.tensors.values() if array.tobytes() == mine.tobytes()]
        assert len(same) == (3 if bundle.step is not None else 2)
        assert all(np.shares_memory(array, mine) for array in same)
    assert not [name for name, array in bundle.tensors.items() if array.dtype.kind == "f" and len(array) == 51]


def test_a_row_takes_the_bytes_that_it_should(tmp_path: Path) -> None:
    before = scattered(4000, small(SASRecConfig, embedding_dim=64))
    before.popularity[:] = 1
    after = made(before, Tier(share=0.25), Quantize(weights="int8"))
    after.save(tmp_path / "c")
    network = sum(v.numel() * 2 for name, v in after.parameters.items() if not name.startswith("item."))
    items = 1000 * (32 + 2) + 3000 * 8 + 8 * 256 * 8 * 2
    assert (tmp_path / "c" / "parameters.safetensors").stat().st_size < items + network + 5000


@pytest.mark.parametrize("config", [SASREC, COSINE])
def test_training_on_moves_fine_rows_and_sub_vectors(config: Any) -> None:
    teacher = fit(cycle(), config, TRAIN, Machine(threads=1), Silent())
    one, other = (
        Recipe(steps=(Tier(share=0.5, codes=4, code_bits=4, step_scale=1.5, train=how), Quantize(weights="int8")))
        for how in (None, TRAIN)
    )
    shop = Workshop(read=cycle, machine=Machine(threads=1))
    before, after = compress(teacher, one, shop), compress(teacher, other, shop)
    assert {name: v.shape for name, v in before.parameters.items()} == {n: v.shape for n, v in after.parameters.items()}
    for name in ("item.slots", "item.coarse.codes"):
        assert torch.equal(before.parameters[name], after.parameters[name])
    for name in ("item.coarse.centroids", "item.fine.codes", "item.fine.scale"):
        assert not torch.equal(before.parameters[name], after.parameters[name])
    assert not vectors(after)[0].any()


def test_what_is_measured_in_training_is_what_is_kept() -> None:
    """The best figure that training saw is that of the table as it is stored."""
    teacher = fit(cycle(), SASREC, TRAIN, Machine(threads=1), Silent())
    seen: list[float] = []

    class Seen(Silent):
        def validated(self, epoch: int, figures: dict[str, float], *, best: bool) -> None:
            seen.append(figures["ndcg@10"])

    shop = Workshop(read=cycle, machine=Machine(threads=1), journal=Seen())
    after = compress(teacher, Recipe(steps=(Tier(share=0.5, codes=4, code_bits=4, train=TRAIN),)), shop)
    assert after.metrics["ndcg@10"] == pytest.approx(max(seen), abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: fit(cycle(), small(SASRecConfig, table=Tiered(codes=4)), TRAIN, Machine(threads=1), Silent()),
            r"\$\.model\.table\.kind = 'tiered' cannot be trained from nothing",
        ),
        (
            lambda: check(Recipe(steps=(Train(train=TRAIN), Tier(codes=4), Train(train=TRAIN))), SASREC, 30),
            r"\$\.steps\[2\]: model\.table\.kind = 'tiered' cannot be trained from nothing",
        ),
        (
            lambda: check(
                Recipe(steps=(Distil(student=small(SASRecConfig, table=Tiered(codes=4)), train=TRAIN),)), SASREC, 30
            ),
            r"student\.table\.kind = 'tiered' cannot be trained from nothing",
        ),
        (
            lambda: check(Recipe(steps=(Tier(codes=4, train=TrainConfig(sparse_rows=True, loss=BCE())),)), SASREC, 30),
            r"train\.sparse_rows: .*'tiered'",
        ),
    ],
)
def test_training_that_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def arrays() -> dict[str, Any]:
    after = made(scattered(20), Tier(share=0.5, codes=4, code_bits=4))
    own = {name.removeprefix("item."): value.numpy() for name, value in after.parameters.items()}
    return {name: own[name] for name in own if name == "slots" or name.startswith(("fine.", "coarse."))}


@pytest.mark.parametrize(
    "damage",
    [
        lambda a: {"slots": a["slots"][:-1]},
        lambda a: {"slots": a["slots"].astype(np.int64)},
        lambda a: {"slots": a["slots"] + 1},
        lambda a: {"slots": a["slots"] * 2},
        lambda a: {"slots": a["slots"][::-1].copy()},
        lambda a: {"slots": a["slots"].ravel()},
        lambda a: {"slots": np.zeros((21, 0), np.int32)},
        lambda a: {"fine.codes": a["fine.codes"][1:]},
        lambda a: {"fine.scale": a["fine.scale"].astype(np.float64)},
        lambda a: {"coarse.codes": a["coarse.codes"][:, :1]},
        lambda a: {"coarse.codes": a["coarse.codes"][1:]},
        lambda a: {"coarse.centroids": a["coarse.centroids"][:, :, :1]},
        lambda a: {"coarse.centroids": a["coarse.centroids"][0]},
        lambda a: {"coarse.centroids": a["coarse.centroids"][:, :9]},
        lambda a: {"n_items": np.array([21])},
    ],
)
def test_damaged_arrays_are_refused(damage: Any) -> None:
    whole, config = arrays() | {"n_items": np.array([20])}, TableIndexConfig(table="tiered", bits=4)
    assert TableIndex.load(whole, config).n_items == 20
    with pytest.raises(ArtifactError, match="pack again"):
        TableIndex.load(whole | damage(whole), config)
    for name in whole:
        with pytest.raises(ArtifactError):
            TableIndex.load({key: value for key, value in whole.items() if key != name}, config)


def test_it_is_not_made_from_vectors() -> None:
    with pytest.raises(ConfigError, match='"tiered" is not made from vectors'):
        TableIndex.build(np.zeros((9, 8), np.float32), TableIndexConfig(table="tiered"))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([Tier(codes=3)], r"\$\.steps\[0\]: .*codes = 3 does not divide"),
        ([Tier(fine_codes=3)], r"\$\.steps\[0\]: .*fine_codes = 3 does not divide"),
        ([Tier(codes=1, code_bits=4)], "fill no whole bytes"),
        ([Tier(codes=4), Tier(codes=4)], r"\$\.steps\[1\]: the item table is not of floats any more"),
        ([ProductQuantize(codes=4), Tier(codes=4)], r"\$\.steps\[1\]: the item table is not of floats any more"),
        ([Tier(codes=4), Quantize(table_bits=4)], r"\$\.steps\[1\]: table_bits = 4: the item table is tiered already"),
        ([Tier(codes=4), Prune(sparsity=0.5)], r"\$\.steps\[1\]: include: the item table is tiered already"),
        ([Tier(codes=4), PruneStructure(keep_width=4)], r"\$\.steps\[1\]: keep_width: the item table is tiered"),
    ],
)
def test_steps_that_cannot_be_done(steps: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(Recipe(steps=tuple(steps)), SASREC, 30)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": -0.1}, "share = -0.1"),
        ({"share": 1, "fine_codes": 4}, "leaves one of two tiers"),
        ({"bits": 3}, "bits = 3"),
        ({"fine_codes": -1}, "fine_codes = -1"),
        ({"fine_codes": 4, "bits": 2}, "codes have 4 or 8 bits"),
        ({"power": 3}, "power = 3"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Tier(**settings)
