"""Which weights become zero, by hand and as a property; and that they stay zero whatever the optimizer does."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from millirec.compress.sparsity import alive, keep_zeros, least, least_of_all, least_of_groups, prunable
from millirec.models.config import GRU4RecConfig, HSTUConfig, LinearRecurrentConfig, build
from millirec.models.layers.table import Hashed, LowRank, Quantized
from millirec.train.rows import RowAdam, sparse_items
from tests.networks import N_ITEMS, network, small


def test_the_least_by_hand() -> None:
    scores = torch.tensor([[3.0, 1.0], [2.0, 1.0]])
    assert least(scores, 0).tolist() == [[False, False], [False, False]]
    assert least(scores, 1).tolist() == [[False, True], [False, False]]  # of equal ones the first
    assert least(scores, 3).tolist() == [[False, True], [True, True]]
    assert least(scores, 4).all()


def test_global_and_layer_differ() -> None:
    scores = {"small": torch.tensor([[1.0, 2.0]]), "large": torch.tensor([[5.0, 6.0]])}
    drop = least_of_all(scores, 2)
    assert drop["small"].tolist() == [[True, True]]
    assert drop["large"].tolist() == [[False, False]]
    assert [least(score, 1).tolist() for score in scores.values()] == [[[True, False]], [[True, False]]]


def test_two_of_four_by_hand() -> None:
    scores = torch.tensor([[1.0, 4.0, 3.0, 2.0, 5.0, 5.0, 5.0, 6.0]])
    assert least_of_groups(scores, 4, 2).tolist() == [[True, False, False, True, True, True, False, False]]
    assert least_of_groups(scores, 8, 7).int().tolist() == [[1, 1, 1, 1, 1, 1, 1, 0]]


def test_what_is_zero_goes_first() -> None:
    """A weight without a gradient has a score of 0 too, but it is not zero."""
    weights, scores = {"w": torch.tensor([[5.0, 0.0]])}, {"w": torch.tensor([[0.0, 0.0]])}
    assert least(alive(scores, weights)["w"], 1).tolist() == [[False, True]]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.data())
def test_exactly_so_many_and_the_lowest(values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(values)))
    scores = torch.tensor(values, dtype=torch.float32)
    drop = least(scores, count)
    assert int(drop.sum()) == count
    if 0 < count < len(values):
        assert scores[drop].max() <= scores[~drop].min()


@given(st.integers(1, 6), st.integers(1, 4), st.data())
def test_each_group_loses_as_many(rows: int, groups: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 6))
    count = data.draw(st.integers(0, size))
    scores = torch.randn(rows, groups * size, generator=torch.Generator().manual_seed(rows))
    drop = least_of_groups(scores, size, count).view(rows, groups, size)
    assert (drop.sum(2) == count).all()
    ordered = scores.view(rows, groups, size).sort(dim=2).values
    assert torch.equal(scores.view(rows, groups, size)[drop].sum(), ordered[:, :, :count].sum()) or torch.allclose(
        scores.view(rows, groups, size)[drop].sum(), ordered[:, :, :count].sum(), atol=1e-5
    )


def test_what_can_be_pruned() -> None:
    linear = set(prunable(build(small(GRU4RecConfig, layers=1), 5), ("linear",)))
    assert linear == {"gru.weight_ih_l0", "gru.weight_hh_l0", "project.weight"}
    assert set(prunable(build(small(HSTUConfig), 5), ("embedding",))) == {"item.weight", "position.weight"}
    for table, names in (
        (LowRank(rank=2), {"item.weight", "item.basis"}),
        (Hashed(buckets=3), {"item.first", "item.second"}),
        (Quantized(), set()),
    ):
        found = prunable(build(small(LinearRecurrentConfig, table=table), 5), ("embedding",))
        assert set(found) == names | {"gap.weight"}


@pytest.mark.parametrize("sparse", [False, True])
def test_zeros_stay_zero(sparse: bool) -> None:
    """Under weight decay, momentum, and gradients of looked-up rows; everything else moves."""
    module = network(small(GRU4RecConfig))
    weights = prunable(module)
    with torch.no_grad():
        for weight in weights.values():
            weight[:, ::2] = 0
    keep_zeros(module)
    if sparse:
        sparse_items(module)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    decay = 0.0 if sparse else 0.1
    optimizer = RowAdam(list(module.parameters()), lr=0.1, weight_decay=decay, fused=True)
    for _ in range(3):
        optimizer.zero_grad()
        rows = torch.arange(1, N_ITEMS).view(1, -1)
        vectors = module._cells(module.item(rows))[0]
        module.project(vectors).square().sum().backward()
        optimizer.step()
    for name, weight in weights.items():
        assert (weight[:, ::2] == 0).all(), name
        assert not torch.signbit(weight.detach()[:, ::2]).any(), name  # so that they are left out on disk
        assert not torch.equal(weight, before[name]), name
