"""Codes from who took what: singular vectors and bins worked out by hand, and what training does with them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.data.codes import unpack
from millirec.data.dataset import TEST, TRAIN, Dataset
from millirec.data.errors import ConfigError
from millirec.data.split import LeaveLastOut, split
from millirec.models.config import SASRecConfig, build
from millirec.models.layers.table import Hashed, LowRank, Product, Quantized, TableConfig
from millirec.train.adversarial import FGM
from millirec.train.fit import fit
from millirec.train.item_codes import equal_bins, interaction_codes, item_factors, prepare_table
from millirec.train.journal import Silent
from millirec.train.losses import BCE
from millirec.train.machine import Machine
from millirec.train.trainer import TrainConfig
from tests.logs import checkerboard, cycle, dataset_of
from tests.networks import small

TRAINING = TrainConfig(epochs=3, batch_size=16, learning_rate=0.02)


def test_singular_vectors_by_hand() -> None:
    # users 1 and 2 take items 1 and 2, user 3 takes item 3, nobody takes item 4:
    # two blocks, of singular values 2 and 1, whose right vectors are (1, 1, 0, 0) / sqrt(2) and (0, 0, 1, 0)
    dataset = dataset_of([[1, 2], [2, 1, 2], [3]], n_items=4)
    factors = np.abs(item_factors(dataset, 3, seed=0))
    assert factors[:, 0] == pytest.approx([2**-0.5, 2**-0.5, 0, 0], abs=1e-12)
    assert factors[:, 1] == pytest.approx([0, 0, 1, 0], abs=1e-12)


def test_the_sparse_way_agrees_with_the_dense_one() -> None:
    rng, chances = np.random.default_rng(0), np.arange(60, 0, -1) / 1830
    sequences = [(rng.choice(60, 12, replace=False, p=chances) + 1).tolist() for _ in range(90)]
    dataset = dataset_of(sequences, n_items=60)
    matrix = np.zeros((90, 60))
    for user, items in enumerate(sequences):
        matrix[user, np.array(items) - 1] = 1
    _, values, vectors = np.linalg.svd(matrix)
    factors = item_factors(dataset, 5, seed=3)
    assert np.abs((factors * vectors[:5].T).sum(axis=0)) == pytest.approx(1, abs=1e-6)
    assert (np.diff(values[:6]) < 0).all()


def test_bins_by_hand() -> None:
    values = np.array([[0.3, -1.0], [0.1, 5.0], [0.2, 4.0], [0.9, 0.0], [-2.0, 3.0], [0.0, 1.0]])
    bins = equal_bins(values, 3, np.random.default_rng(0))
    assert bins.T.tolist() == [[2, 1, 1, 2, 0, 0], [0, 2, 2, 0, 1, 1]]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.sampled_from([16, 256]), st.integers(0, 1000), st.integers(1, 50))
def test_bins_are_equally_full_and_in_order(n: int, levels: int, seed: int, distinct: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, distinct, (n, 2)).astype(np.float64)
    bins = equal_bins(values, levels, rng).astype(int)
    for column, numbers in zip(values.T, bins.T, strict=True):
        counts = np.bincount(numbers, minlength=levels)
        assert counts.max() - counts.min() <= 1
        assert (np.diff(numbers[np.lexsort((numbers, column))]) >= 0).all()


def test_ties_are_parted_at_random() -> None:
    one, other = (equal_bins(np.zeros((64, 3)), 16, np.random.default_rng(seed)) for seed in (0, 1))
    assert not np.array_equal(one, other)
    assert not np.array_equal(one[:, 0], one[:, 1])


def test_codes_come_from_training_events_only() -> None:
    dataset = checkerboard()
    codes = interaction_codes(dataset, 4, 4, seed=0)
    assert codes.shape == (21, 4)
    assert not codes[0].any()
    assert np.array_equal(codes, interaction_codes(dataset, 4, 4, seed=0))
    items = dataset.interactions.items.copy()
    items[dataset.roles == TEST] = 1
    log = type(dataset.interactions)(dataset.interactions.users, items, dataset.interactions.times)
    moved = Dataset(log, dataset.items, dataset.users, dataset.roles)
    assert (moved.roles == TRAIN).sum() > 0
    assert np.array_equal(codes, interaction_codes(moved, 4, 4, seed=0))


def test_items_that_are_taken_together_share_codes() -> None:
    # the first dimension parts the two halves of the checkerboard from one another, or the second does
    codes = interaction_codes(checkerboard(n_users=200), 2, 4, seed=0)[1:] // 8
    even, odd = codes[1::2], codes[::2]
    assert max(np.abs(even.mean(axis=0) - odd.mean(axis=0))) > 0.9


def test_more_codes_than_dimensions() -> None:
    codes = interaction_codes(split(dataset_of([[1, 2, 3, 4], [4, 3, 2, 1]]), LeaveLastOut()), 6, 4, seed=0)
    assert codes.shape == (5, 6)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_fresh_product_table_gets_its_codes(bits: int) -> None:
    dataset = cycle()
    config = small(SASRecConfig, table=Product(codes=4, bits=bits))
    network = build(config, 12)
    before = network.item.centroids.detach().clone()
    prepare_table(network, dataset, seed=5)
    assert np.array_equal(unpack(network.item.codes.numpy(), bits), interaction_codes(dataset, 4, bits, seed=5))
    assert torch.equal(network.item.centroids, before)
    prepare_table(build(small(SASRecConfig), 12), dataset, seed=5)  # nothing to do


@pytest.mark.parametrize(
    "table", [Product(codes=4), LowRank(rank=3), Hashed(buckets=5), Hashed(buckets=7, way="multi")], ids=repr
)
def test_every_table_is_trained_from_nothing(table: TableConfig) -> None:
    dataset, config = cycle(), small(SASRecConfig, table=table)
    train = TrainConfig(epochs=8, batch_size=8, learning_rate=0.03, validate_every=8)
    made = fit(dataset, config, train, Machine(threads=1), Silent())
    assert made.metrics["ndcg@10"] > 0.6
    if isinstance(table, Product):
        codes = interaction_codes(dataset, 4, 4, seed=42)
        assert np.array_equal(unpack(made.parameters["item.codes"].numpy(), 4), codes)


def test_codes_rest_while_sub_vectors_learn() -> None:
    network = build(small(SASRecConfig, table=Product(codes=4)), 12)
    prepare_table(network, cycle(), seed=0)
    network.item.vectors().square().sum().backward()
    assert [name for name, _ in network.item.named_parameters()] == ["centroids"]
    used = unpack(network.item.codes.numpy(), 4)
    for part, gradient in enumerate(network.item.centroids.grad):
        moved = gradient.abs().sum(dim=1) > 0
        assert set(moved.nonzero().squeeze(1).tolist()) == set(used[:, part].tolist())


@pytest.mark.parametrize(
    ("model", "train", "message"),
    [
        ({"table": Quantized()}, {}, r"\$\.model\.table\.kind = 'quantized'.*train a dense table and quantise"),
        ({"weights": "int8"}, {}, r"\$\.model\.weights = 'int8'.*quantise"),
        ({"weights": "fp16"}, {}, r"\$\.model\.weights = 'fp16'"),
        ({"table": LowRank(rank=2)}, {"sparse_rows": True, "loss": BCE()}, r"\$\.train\.sparse_rows.*'low-rank'"),
        ({"table": Hashed(buckets=3)}, {"adversarial": FGM()}, r"\$\.train\.adversarial.*'hashed'"),
        ({"table": Product(codes=4)}, {"adversarial": FGM()}, r"\$\.train\.adversarial.*'product'"),
    ],
)
def test_what_cannot_be_trained_is_refused(model: dict, train: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(cycle(), small(SASRecConfig, **model), TrainConfig(epochs=1, **train), Machine(threads=1), Silent())
