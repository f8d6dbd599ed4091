import numpy as np
import pytest
import torch

from millirec.train.negatives import BatchSampler, CatalogSampler, hardest, uncorrected

WANTED = torch.tensor([2, 2, 1, 2])


def test_draws_are_in_proportion_and_never_row_0() -> None:
    negatives = CatalogSampler(np.array([5, 1, 3]), 40_000, power=1.0).draw(WANTED, np.random.default_rng(1))
    assert negatives.rows.tolist() == [1, 2]
    assert negatives.counts.sum() == 40_000
    assert negatives.counts[1].item() == pytest.approx(30_000, rel=0.02)
    assert negatives.log_expected.exp().tolist() == pytest.approx([10_000, 30_000], rel=1e-4)
    assert negatives.log_expected_wanted.exp().tolist() == pytest.approx([3e4, 3e4, 1e4, 3e4], rel=1e-4)


def test_a_power_flattens_and_an_unseen_item_keeps_a_chance() -> None:
    sampler = CatalogSampler(np.array([0, 1, 4, 0]), 30_000, power=0.5)
    negatives = sampler.draw(torch.tensor([3]), np.random.default_rng(1))
    assert (negatives.counts[1] / negatives.counts[0]).item() == pytest.approx(2, rel=0.05)
    assert torch.isfinite(negatives.log_expected_wanted).all()


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_per_row_draws_are_of_each_targets_own(power: float) -> None:
    sampler = CatalogSampler(np.array([0, 1, 1, 1]), 5, power=power, per_row=True)
    negatives = sampler.draw(WANTED, np.random.default_rng(2))
    assert negatives.rows.shape == negatives.counts.shape == negatives.log_expected.shape == (4, 5)
    assert set(negatives.rows.flatten().tolist()) == {1, 2, 3}
    assert (negatives.rows[0] != negatives.rows[1]).any()


def test_the_same_generator_gives_the_same_negatives() -> None:
    for sampler in (CatalogSampler(np.arange(90), 9), BatchSampler(np.arange(90), 2, 5)):
        one, two, other = (sampler.draw(WANTED, np.random.default_rng(seed)).rows.tolist() for seed in (1, 1, 2))
        assert one == two != other


def test_a_batch_gives_its_targets_with_their_counts() -> None:
    """Four targets; item 1 is an eighth of all events, item 2 seven eighths; one uniform item of two is added."""
    negatives = BatchSampler(np.array([0, 1, 7]), 0).draw(WANTED, np.random.default_rng(0))
    assert negatives.rows.tolist() == [1, 2]
    assert negatives.counts.tolist() == [1, 3]
    assert negatives.log_expected.exp().tolist() == pytest.approx([4 / 8, 4 * 7 / 8])
    mixed = BatchSampler(np.array([0, 1, 7]), 2, 1).draw(WANTED, np.random.default_rng(0))
    assert mixed.counts.sum() == 3
    assert mixed.log_expected_wanted[2].exp().item() == pytest.approx(2 / 8 + 1 / 2)


def test_the_hardest_are_those_that_score_highest_where_they_are_not_the_target() -> None:
    """Row 3 scores highest, but is the target of all; rows 1 and 4 come next."""
    hidden, wanted = torch.ones(600, 1), torch.full((600,), 3)
    vectors = torch.tensor([[5.0], [-1.0], [9.0], [4.0]])
    kept = hardest(hidden, wanted, vectors, uncorrected(torch.tensor([1, 2, 3, 4]), wanted), 2)
    assert sorted(kept.rows.tolist()) == [1, 4]
    assert kept.counts.tolist() == [1, 1]
    assert len(hardest(hidden, wanted, vectors, uncorrected(torch.tensor([1, 2, 3, 4]), wanted), 9).rows) == 4
