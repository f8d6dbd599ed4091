"""Steps that replace the item table: what they lose, worked out by hand or by other means, and what they refuse."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from millirec.compress.clusters import clusters, means
from millirec.compress.distil import Distil
from millirec.compress.embedding import NewTable, item_weights
from millirec.compress.factorise import Factorise
from millirec.compress.hashing import Hash
from millirec.compress.product import JointProduct, ProductQuantize
from millirec.compress.quantize import Quantize
from millirec.compress.recipe import Recipe, check, compress
from millirec.compress.workshop import Workshop
from millirec.data.codes import unpack
from millirec.data.errors import ConfigError
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import EASEConfig, GRU4RecConfig, LinearRecurrentConfig, ModelConfig, SASRecConfig
from millirec.models.layers.table import Hashed, LowRank, Product, Quantized
from millirec.train.adversarial import FGM
from millirec.train.fit import fit
from millirec.train.item_codes import interaction_codes
from millirec.train.journal import Silent
from millirec.train.losses import BCE
from millirec.train.machine import Machine
from millirec.train.trainer import TrainConfig
from tests.bundles import untrained
from tests.logs import cycle
from tests.networks import small

SASREC = small(SASRecConfig)
COSINE = small(SASRecConfig, temperature=0.1)
TRAIN = TrainConfig(epochs=3, batch_size=8, learning_rate=0.01)
STEPS: list[Any] = [
    ProductQuantize(codes=4),
    Factorise(rank=3),
    Hash(buckets=9),
    Hash(buckets=12, way="multi"),
]


def shop(folder: Path | None = None) -> Workshop:
    return Workshop(read=cycle, machine=Machine(threads=1), folder=folder)


def applied(step: NewTable, checkpoint: Checkpoint) -> Checkpoint:
    return step.apply(checkpoint, Workshop(machine=Machine(threads=1)), None)


def vectors(checkpoint: Checkpoint) -> torch.Tensor:
    """Rows 1..n of the item table."""
    with torch.inference_mode():
        return checkpoint.network().item.vectors()[1:]


def loss(step: NewTable, before: Checkpoint) -> float:
    """The squared error of the new table against the old one, as the step weighs it, a share of the old squares."""
    own, new = vectors(before), vectors(applied(step, before))
    weights = torch.from_numpy(item_weights(before, step.power))[1:, None]
    return float((weights * (new - own).square()).sum() / (weights * own.square()).sum())


def with_vectors(rows: np.ndarray, config: ModelConfig = SASREC) -> Checkpoint:
    """An untrained network whose item vectors, rows 1..n, are these."""
    made = untrained(len(rows), config)
    made.parameters["item.weight"] = torch.from_numpy(np.pad(rows, ((1, 0), (0, 0))).astype(np.float32))
    return made


@pytest.mark.parametrize("step", STEPS, ids=repr)
@pytest.mark.parametrize("config", [SASREC, COSINE, small(GRU4RecConfig), small(LinearRecurrentConfig)], ids=repr)
def test_only_the_table_changes(step: NewTable, config: ModelConfig) -> None:
    before = untrained(30, config)
    after = applied(step, before)
    temperature = config.temperature
    if temperature is not None and isinstance(step, ProductQuantize):  # directions, of their mean length
        temperature *= float(before.parameters["item.weight"][1:].norm(dim=1).mean())
        assert after.config.temperature == pytest.approx(temperature)
        temperature = after.config.temperature
    assert after.config == msgspec.structs.replace(step.rewritten(config, 30), temperature=temperature)
    assert after.config.table == step.table()
    others = {name for name in after.parameters if not name.startswith("item.")}
    assert others == {name for name in before.parameters if not name.startswith("item.")}
    assert all(torch.equal(after.parameters[name], before.parameters[name]) for name in others)
    assert after.network().item_vectors().shape == before.network().item_vectors().shape


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_the_same_seed_gives_the_same_table(step: NewTable) -> None:
    one, other = (applied(step, untrained(30, SASREC)).parameters for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [
        (ProductQuantize(codes=2), ProductQuantize(codes=4)),
        (ProductQuantize(codes=4), ProductQuantize(codes=8)),
        (ProductQuantize(codes=2), ProductQuantize(codes=2, bits=8)),
        (Factorise(rank=2), Factorise(rank=5)),
        (Hash(buckets=6, way="multi"), Hash(buckets=20, way="multi")),
    ],
)
@pytest.mark.parametrize("power", [0, 0.5, 1])
def test_more_numbers_lose_less(coarse: Any, fine: Any, power: float) -> None:
    before = untrained(100, SASREC)
    losses = [
        loss(type(step)(**{n: getattr(step, n) for n in step.__struct_fields__} | {"power": power}), before)
        for step in (coarse, fine)
    ]
    assert 0 <= losses[1] < losses[0] < 1


def test_vectors_made_of_few_parts_are_kept_exactly() -> None:
    rng = np.random.default_rng(0)
    centroids = rng.standard_normal((4, 16, 2)).astype(np.float32)
    numbers = rng.integers(0, 16, (200, 4))
    rows = centroids[np.arange(4), numbers].reshape(200, 8)
    assert loss(ProductQuantize(codes=4), with_vectors(rows)) < 1e-10


def test_cosines_are_quantised_as_directions() -> None:
    """Rows of any length come out with about their mean length, and rank as their directions do."""
    rng = np.random.default_rng(0)
    centroids = rng.standard_normal((4, 16, 2)).astype(np.float32)
    rows = centroids[np.arange(4), rng.integers(0, 16, (60, 4))].reshape(60, 8)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    long = rows * rng.uniform(1, 3, (60, 1)).astype(np.float32)
    new = vectors(applied(ProductQuantize(codes=4, bits=8), with_vectors(long, COSINE)))
    mean = float(np.linalg.norm(long, axis=1).mean())
    torch.testing.assert_close(new, torch.from_numpy(rows) * mean, rtol=1e-4, atol=1e-4)
    # a table that is brought to length 1 for scoring keeps the lengths
    low = vectors(applied(Factorise(rank=7), with_vectors(long, COSINE)))
    assert low.norm(dim=1).std() > 0.3


def test_factors_by_hand() -> None:
    # rows along (1, 0, ...) of length 3 and along (0, 1, ...) of length 2: one direction keeps the longer ones
    rows = np.zeros((10, 8), np.float32)
    rows[:5, 0], rows[5:, 1] = 3, 2
    new = vectors(applied(Factorise(rank=1, power=0), with_vectors(rows)))
    assert new[:5, 0].tolist() == pytest.approx([3] * 5)
    assert new[5:].abs().max() < 1e-6
    # the weight of the others counts: 5 * 9 < 5 * 4 * 3
    made = with_vectors(rows)
    made.popularity[:6], made.popularity[6:] = 0, 2
    new = vectors(applied(Factorise(rank=1, power=1), made))
    assert new[:5].abs().max() < 1e-6
    assert new[5:, 1].tolist() == pytest.approx([2] * 5)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 7))
def test_factors_lose_what_an_svd_loses(seed: int, rank: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((40, 8)).astype(np.float32)
    values = np.linalg.svd(rows.astype(np.float64), compute_uv=False)
    share = np.square(values[rank:]).sum() / np.square(values).sum()
    assert loss(Factorise(rank=rank, power=0), with_vectors(rows)) == pytest.approx(share, rel=1e-3)


def test_products_of_rows_are_found_again() -> None:
    # 30 items in 9 buckets: row r is first[r % 9] * second[r // 9]
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((9, 8)), rng.standard_normal((4, 8)) + 2
    rows = np.arange(1, 31)
    made = with_vectors(first[rows % 9] * second[rows // 9])
    assert loss(Hash(buckets=9), made) < 1e-4


def test_sums_of_rows_are_the_least_squares() -> None:
    before = untrained(40, SASREC)
    step = Hash(buckets=11, way="multi", hashes=3, power=0.5)
    after = applied(step, before)
    places = [place.numpy() for place in after.network().item.places(torch.arange(41))]
    which = np.zeros((41, 11))
    for place in places:
        np.add.at(which, (np.arange(41), place), 1)
    root = np.sqrt(item_weights(before, 0.5))[:, None]
    want, *_ = np.linalg.lstsq(root * which, root * before.parameters["item.weight"].numpy(), rcond=None)
    assert after.parameters["item.first"].numpy() == pytest.approx(want, abs=2e-3)


def test_clusters_by_hand() -> None:
    rows = np.array([[0, 0], [0, 1], [10, 0], [10, 1], [10, 2]], np.float32)
    found = clusters(rows, 2, np.ones(5, np.float32), np.random.default_rng(0))
    assert sorted(found.centres.tolist()) == [[0, 0.5], [10, 1]]
    assert len(set(found.numbers[:2].tolist())) == len(set(found.numbers[2:].tolist())) == 1
    # a heavy row draws its centre near: (0 * 3 + 1) / 4
    heavy = clusters(rows, 2, np.array([3, 1, 1, 1, 1], np.float32), np.random.default_rng(0))
    assert sorted(heavy.centres.tolist()) == [[0, 0.25], [10, 1]]
    assert means(rows, np.array([0, 0, 2, 2, 2], np.uint8), 3, np.ones(5, np.float32)).tolist() == [
        [0, 0.5],
        [6, pytest.approx(0.8)],
        [10, 1],
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.sampled_from([1, 4, 16]), st.integers(0, 1000), st.integers(1, 9))
def test_every_row_is_with_its_nearest_centre(n: int, k: int, seed: int, distinct: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, distinct, (n, 2)).astype(np.float32)
    found = clusters(rows, k, rng.random(n).astype(np.float32), rng)
    distances = np.square(rows[:, None] - found.centres[None]).sum(axis=2)
    assert np.take_along_axis(distances, found.numbers[:, None].astype(int), 1)[:, 0] == pytest.approx(
        distances.min(axis=1), abs=1e-4
    )
    if len(np.unique(rows, axis=0)) <= k and n >= k:
        assert distances.min(axis=1).max() == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def teacher() -> Checkpoint:
    return fit(cycle(), SASREC, TrainConfig(epochs=12, batch_size=8, learning_rate=0.02), Machine(threads=1), Silent())


def test_codes_of_the_matrix_and_means_of_the_table(teacher: Checkpoint) -> None:
    step = JointProduct(codes=4, train=TRAIN, power=0)
    made = step.parameters(teacher, shop(), step.rewritten(SASREC, 12))
    codes = interaction_codes(cycle(), 4, 4, seed=42)
    assert np.array_equal(unpack(made["item.codes"].numpy(), 4), codes)
    rows = teacher.parameters["item.weight"][1:].numpy().reshape(12, 4, 2)
    for part in range(4):
        for code in set(codes[1:, part]):
            mine = rows[codes[1:, part] == code, part].mean(axis=0)
            assert made["item.centroids"][part, code].numpy() == pytest.approx(mine, abs=1e-6)


@pytest.mark.parametrize("codes_from", ["svd", "vectors"])
@pytest.mark.parametrize("fresh", [True, False])
def test_joint_training_learns_the_sub_vectors_only(teacher: Checkpoint, codes_from: Any, fresh: bool) -> None:
    train = TrainConfig(epochs=8, batch_size=8, learning_rate=0.03, validate_every=8)
    step = JointProduct(codes=4, codes_from=codes_from, fresh=fresh, train=train)
    start = step.parameters(teacher, shop(), step.rewritten(SASREC, 12))
    after = compress(teacher, Recipe(steps=(step,)), shop())
    assert torch.equal(after.parameters["item.codes"], start["item.codes"])
    assert not torch.equal(after.parameters["item.centroids"], start["item.centroids"])
    assert torch.equal(start["position.weight"], teacher.parameters["position.weight"]) != fresh
    assert after.metrics["ndcg@10"] > 0.6
    assert after.lineage[-1].name == "joint-product"


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_training_on_moves_the_table(step: Any, teacher: Checkpoint) -> None:
    small_steps = {"buckets": 4} if isinstance(step, Hash) else {}
    fields = {name: getattr(step, name) for name in step.__struct_fields__} | small_steps
    step, trained = type(step)(**fields), type(step)(**fields | {"train": TRAIN})
    assert not step.needs_data
    assert trained.needs_data
    before, after = (s.apply(teacher, shop(), None) for s in (step, trained))
    assert before.metrics == {}
    assert set(after.metrics) == {"ndcg@10"}
    assert not torch.equal(vectors(before), vectors(after))


def test_a_student_may_have_product_codes(teacher: Checkpoint) -> None:
    student = small(SASRecConfig, table=Product(codes=4))
    train = TrainConfig(epochs=8, batch_size=8, learning_rate=0.03, validate_every=8)
    made = compress(teacher, Recipe(steps=(Distil(student=student, train=train),)), shop())
    assert np.array_equal(unpack(made.parameters["item.codes"].numpy(), 4), interaction_codes(cycle(), 4, 4, seed=42))
    assert made.metrics["ndcg@10"] > 0.6


def test_a_step_that_is_done_is_not_done_again(teacher: Checkpoint, tmp_path: Path) -> None:
    recipe = Recipe(steps=(JointProduct(codes=4, train=TRAIN), Quantize(weights="int8")))
    one = compress(teacher, recipe, shop(tmp_path))
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    other = compress(teacher, recipe, shop(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == stamps
    assert all(torch.equal(one.parameters[name], other.parameters[name]) for name in one.parameters)
    assert one.config.table == Product(codes=4)
    assert one.config.weights == "int8"


def test_a_table_on_disk_is_as_small_as_its_numbers(tmp_path: Path) -> None:
    before = untrained(3000, small(SASRecConfig, embedding_dim=64))
    sizes = {}
    for name, made in {"dense": before, "product": applied(ProductQuantize(codes=16), before)}.items():
        made.save(tmp_path / name)
        sizes[name] = (tmp_path / name / "parameters.safetensors").stat().st_size
    others = sum(value.nbytes for name, value in before.parameters.items() if not name.startswith("item."))
    assert sizes["product"] < others + 3001 * 8 + 16 * 16 * 4 * 4 + 3001 * 8 + 4000  # codes, sub-vectors, popularity
    assert sizes["dense"] > sizes["product"] + 3000 * 64 * 4 * 0.8


@pytest.mark.parametrize(
    ("steps", "config", "message"),
    [
        ([ProductQuantize(codes=3)], SASREC, r"\$\.steps\[0\]: .*codes = 3 does not divide .*embedding_dim = 8"),
        ([JointProduct(codes=1)], SASREC, r"codes = 1 numbers of 4 bits fill no whole bytes"),
        ([Factorise(rank=8)], SASREC, r"rank = 8 saves nothing"),
        ([Hash(buckets=30)], SASREC, r"buckets = 30 saves nothing with 30 items"),
        ([Hash(buckets=31, way="multi")], SASREC, r"buckets = 31 saves nothing"),
        ([Factorise(rank=2), ProductQuantize(codes=4)], SASREC, r"\$\.steps\[1\]: the item table is not of floats"),
        ([Quantize(weights=None, table_bits=4), Factorise(rank=2)], SASREC, r"\$\.steps\[1\]: .*not of floats"),
        ([Quantize(), JointProduct(codes=4)], SASREC, r"\$\.steps\[1\]: model\.weights = 'int8'"),
        ([Quantize(), JointProduct(codes=4, fresh=True)], SASREC, r"\$\.steps\[1\]: model\.weights = 'int8'"),
        ([ProductQuantize(codes=4)], EASEConfig(), r"kind 'ease' has no item table"),
        (
            [Factorise(rank=2, train=TrainConfig(sparse_rows=True, loss=BCE()))],
            SASREC,
            r"train\.sparse_rows: .*'low-rank'",
        ),
        (
            [Distil(student=small(SASRecConfig, table=Product(codes=4)), train=TrainConfig(adversarial=FGM()))],
            SASREC,
            r"train\.adversarial: .*'product'",
        ),
    ],
)
def test_steps_that_cannot_be_done(steps: list[Any], config: ModelConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(Recipe(steps=tuple(steps)), config, 30)


def test_what_is_trained_anew_may_have_had_any_table() -> None:
    step = JointProduct(codes=4, fresh=True)
    for table in (LowRank(rank=2), Hashed(buckets=4), Quantized(), Product(codes=2)):
        assert step.rewritten(small(SASRecConfig, table=table), 30).table == Product(codes=4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProductQuantize(power=-1), "power = -1"),
        (lambda: JointProduct(codes_from="users"), "codes_from = 'users'"),
        (lambda: Hash(buckets=1), r"buckets = 1"),
        (lambda: Hash(hashes=0), r"hashes = 0"),
    ],
)
def test_settings_that_cannot_work(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_data_of_another_catalogue_are_refused() -> None:
    with pytest.raises(ConfigError, match="do not fit the checkpoint's vocabulary"):
        JointProduct(codes=4, train=TRAIN).apply(untrained(30, SASREC), shop(), None)


def test_a_product_table_keeps_most_of_the_ranking(teacher: Checkpoint) -> None:
    """Against the exact cosines: quantised directions lose little, and no more than the error allows."""
    after = applied(ProductQuantize(codes=8, bits=8), teacher)
    own, new = vectors(teacher), vectors(after)
    assert F.cosine_similarity(own, new, dim=1).min() > 0.99
