import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import millirec.train.losses as losses
from millirec.train.negatives import Negatives, NegativeSampler


def case(n: int, items: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, 6, generator=rng, requires_grad=True)
    vectors = torch.randn(items + 1, 6, generator=rng, requires_grad=True)
    return hidden, vectors, torch.randint(1, items + 1, (n,), generator=rng)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 30), st.sampled_from([1, 64, 1 << 20]))
def test_full_softmax_is_torchs_cross_entropy_value_and_gradient(n: int, items: int, chunk: int) -> None:
    hidden, vectors, wanted = case(n, items)
    old, losses._CHUNK_ELEMENTS = losses._CHUNK_ELEMENTS, chunk
    try:
        ours = losses.full_softmax(hidden, vectors, wanted)
        ours.backward()
    finally:
        losses._CHUNK_ELEMENTS = old
    grads = hidden.grad.clone(), vectors.grad.clone()
    hidden.grad = vectors.grad = None
    theirs = torch.nn.functional.cross_entropy(hidden @ vectors[1:].T, wanted - 1)
    theirs.backward()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(grads[0], hidden.grad)
    torch.testing.assert_close(grads[1], vectors.grad)


def test_sampled_softmax_by_hand() -> None:
    """Two items, one negative drawn once with chance 1/2: log(1 + exp(s_neg - log q - (s_pos - log q)))."""
    hidden, vectors = torch.tensor([[1.0]]), torch.tensor([[0.0], [2.0], [3.0]])
    negatives = Negatives(torch.tensor([2]), torch.log(torch.tensor([1.0, 0.5, 0.5])))
    loss = losses.sampled_softmax(hidden, vectors, torch.tensor([1]), negatives)
    assert loss.item() == pytest.approx(np.log1p(np.exp(3.0 - 2.0)))


def test_a_negative_that_is_the_target_does_not_count() -> None:
    hidden, vectors = torch.tensor([[1.0]]), torch.tensor([[0.0], [2.0], [3.0]])
    negatives = Negatives(torch.tensor([1, 1]), torch.zeros(3))
    assert losses.sampled_softmax(hidden, vectors, torch.tensor([1]), negatives).item() == pytest.approx(0.0)


@pytest.mark.parametrize("power", [0.0, 0.75])
def test_sampled_softmax_converges_to_the_full_one(power: float) -> None:
    """With the correction, a large sample gives the full softmax's gradient whatever the sampler."""
    hidden, vectors, wanted = case(8, 30)
    popularity = np.concatenate([[0], np.arange(1, 31) ** 2])
    sampler = NegativeSampler.of(popularity, 60_000, power, torch.device("cpu"))
    losses.sampled_softmax(hidden, vectors, wanted, sampler.draw(np.random.default_rng(0))).backward()
    sampled = hidden.grad.clone()
    hidden.grad = None
    losses.full_softmax(hidden, vectors, wanted).backward()
    torch.testing.assert_close(sampled, hidden.grad, atol=0.02, rtol=0.1)


def test_the_sampler_draws_in_proportion_and_never_row_0() -> None:
    sampler = NegativeSampler.of(np.array([5, 1, 3]), 40_000, 1.0, torch.device("cpu"))
    rows = sampler.draw(np.random.default_rng(1)).rows
    assert rows.min() >= 1
    assert (rows == 2).float().mean().item() == pytest.approx(0.75, abs=0.02)
    assert sampler.draw(np.random.default_rng(1)).log_expected[2].exp().item() == pytest.approx(30_000, rel=1e-4)
