"""The losses of distillation against values by hand, autograd, and finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import millirec.train.losses.soft as soft_module
import millirec.train.losses.soft_sampled as sampled_module
from millirec.train.losses import full_softmax
from millirec.train.losses.soft import Blend, Listed, SoftTarget, Spoken, Teacher, soft_softmax
from millirec.train.losses.soft_sampled import soft_sampled_softmax
from millirec.train.negatives import CatalogSampler, Negatives

Case = tuple[Tensor, Tensor, Tensor]
BLENDS = [Blend(0.0), Blend(0.3), Blend(1.0), Blend(0.0, 2.5), Blend(0.6, 2.5), Blend(1.0, 0.5)]


def case(n: int, items: int, dtype: torch.dtype = torch.float32) -> Case:
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, 6, generator=rng, dtype=dtype, requires_grad=True)
    vectors = torch.randn(items + 1, 6, generator=rng, dtype=dtype, requires_grad=True)
    return hidden, vectors, torch.randint(1, items + 1, (n,), generator=rng)


def teachers(n: int, items: int, count: int) -> list[Teacher]:
    """Of unlike widths, and weights that sum up to 1."""
    rng = torch.Generator().manual_seed(1)
    weights = torch.arange(1.0, count + 1)
    return [
        Teacher(torch.randn(n, 3 + i, generator=rng), torch.randn(items, 3 + i, generator=rng), float(weight))
        for i, weight in enumerate(weights / weights.sum())
    ]


def listed(n: int, items: int, k: int, wanted: Tensor) -> Listed:
    """Distinct items a row, the true one among them in every second row."""
    rng = torch.Generator().manual_seed(2)
    rows = torch.stack([torch.randperm(items, generator=rng)[:k] + 1 for _ in range(n)])
    for i in range(0, n, 2):
        if wanted[i] not in rows[i]:
            rows[i, i % k] = wanted[i]
    return Listed(rows, torch.rand(n, k, generator=rng, dtype=torch.float64).softmax(1))


def chances_of(soft: SoftTarget, n: int, items: int, dtype: torch.dtype) -> Tensor:
    out = torch.full((n, items), torch.nan, dtype=dtype)
    soft.fill(slice(0, n), out)
    return out


def plain(logits: Tensor, chances: Tensor, wanted: Tensor, blend: Blend) -> Tensor:
    """The formula, over columns that stand for items 1.."""
    alpha, heat = blend
    hard = torch.nn.functional.cross_entropy(logits, wanted - 1)
    soft = -(chances * (logits / heat).log_softmax(1)).sum(1).mean()
    return (1 - alpha) * hard + alpha * heat**2 * soft


@pytest.mark.parametrize("kind", ["one", "three", "listed"])
@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(3, 20), st.sampled_from([1, 64, 1 << 20]), st.sampled_from(BLENDS))
def test_chunks_give_the_value_and_the_gradient_of_the_formula(
    kind: str, n: int, items: int, chunk: int, blend: Blend
) -> None:
    hidden, vectors, wanted = case(n, items)
    soft = listed(n, items, 3, wanted) if kind == "listed" else Spoken(teachers(n, items, 1 if kind == "one" else 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soft_module, "_CHUNK_ELEMENTS", chunk)
        ours = soft_softmax(hidden, vectors, wanted, soft, blend)
        grads = torch.autograd.grad(ours, [hidden, vectors])
    value = plain(hidden @ vectors[1:].T, chances_of(soft, n, items, torch.float32), wanted, blend)
    torch.testing.assert_close(ours, value)
    torch.testing.assert_close(grads, torch.autograd.grad(value, [hidden, vectors]))


def test_teachers_are_mixed_by_their_chances() -> None:
    """Three items: one teacher says 1/4, 1/4, 1/2, one that it is the first, one that it is the second."""
    one = Teacher(torch.tensor([[1.0]]), torch.tensor([[0.0], [0.0], [float(np.log(2))]]), 0.5)
    two = Teacher(torch.tensor([[100.0]]), torch.tensor([[1.0], [0.0], [0.0]]), 0.2)
    three = Teacher(torch.tensor([[100.0]]), torch.tensor([[0.0], [1.0], [0.0]]), 0.3)
    out = torch.empty(1, 3)
    Spoken([one, two, three]).fill(slice(0, 1), out)
    torch.testing.assert_close(out, torch.tensor([[0.125 + 0.2, 0.125 + 0.3, 0.25]]))


def test_the_loss_by_hand() -> None:
    """Logits 0 and ln 3, chances .4 and .6, the true item the second, alpha .5."""
    hidden, vectors = torch.tensor([[1.0]]), torch.tensor([[9.0], [0.0], [float(np.log(3.0))]])
    soft = Listed(torch.tensor([[2, 1]]), torch.tensor([[0.6, 0.4]]))
    loss = soft_softmax(hidden, vectors, torch.tensor([2]), soft, Blend(0.5))
    q1, q2 = 0.5 * 0.4, 0.5 * 0.6 + 0.5
    assert loss.item() == pytest.approx(-q1 * np.log(0.25) - q2 * np.log(0.75))
    root = np.sqrt(3)  # at temperature 2 the student says 1 : sqrt 3
    warm = soft_softmax(hidden, vectors, torch.tensor([2]), soft, Blend(0.5, 2.0))
    cool = -0.4 * np.log(1 / (1 + root)) - 0.6 * np.log(root / (1 + root))
    assert warm.item() == pytest.approx(0.5 * -np.log(0.75) + 0.5 * 4 * cool)


def test_without_teachers_share_it_is_the_full_softmax() -> None:
    hidden, vectors, wanted = case(40, 15)
    soft = Spoken(teachers(40, 15, 2))
    values, grads = [], []
    for loss in (soft_softmax(hidden, vectors, wanted, soft, Blend(0.0)), full_softmax(hidden, vectors, wanted)):
        values.append(loss)
        grads.append(torch.autograd.grad(loss, [hidden, vectors]))
    torch.testing.assert_close(*values, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-7)


def test_a_student_like_its_teacher_gets_no_gradient_from_it() -> None:
    """At any temperature the softmaxes agree, and nothing is left to learn."""
    hidden, vectors, wanted = case(20, 12)
    own = Teacher(hidden.detach(), vectors.detach()[1:] / 2.5, 1.0)
    loss = soft_softmax(hidden, vectors, wanted, Spoken([own]), Blend(1.0, 2.5))
    for gradient in torch.autograd.grad(loss, [hidden, vectors]):
        assert gradient.abs().max() < 1e-6


def everything(hidden: Tensor, vectors: Tensor, soft: Listed, wanted: Tensor, drawn: Negatives) -> Tensor:
    """What is added to logits (N, n_items): 0 for listed and true items, a weight for drawn ones, -inf elsewhere."""
    n, items = len(hidden), len(vectors) - 1
    weight = torch.full((n, items + 1), -torch.inf, dtype=hidden.dtype)
    weight[:, drawn.rows] = (drawn.counts.log() - drawn.log_expected).to(hidden.dtype)
    weight.scatter_(1, torch.cat([soft.rows, wanted[:, None]], 1), 0.0)
    return weight[:, 1:]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.sampled_from([1, 300, 1 << 20]), st.sampled_from(BLENDS))
def test_a_sample_gives_the_value_and_the_gradient_of_the_formula(n: int, m: int, chunk: int, blend: Blend) -> None:
    items = 15
    hidden, vectors, wanted = case(n, items)
    soft = listed(n, items, 4, wanted)
    drawn = CatalogSampler(np.ones(items + 1, np.int64), m).draw(wanted, np.random.default_rng(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampled_module, "_CHUNK_ELEMENTS", chunk)
        ours = soft_sampled_softmax(hidden, vectors, wanted, soft, drawn, blend)
        grads = torch.autograd.grad(ours, [hidden, vectors])
    weight = everything(hidden, vectors, soft, wanted, drawn)
    chances = chances_of(soft, n, items, torch.float32)
    alpha, heat = blend
    logits = hidden @ vectors[1:].T
    hard = torch.logsumexp(logits + weight, 1) - logits.gather(1, wanted[:, None] - 1).squeeze(1)
    cool = torch.logsumexp(logits / heat + weight, 1) - (chances * logits / heat).sum(1)
    value = ((1 - alpha) * hard + alpha * heat**2 * cool).mean()
    torch.testing.assert_close(ours, value)
    torch.testing.assert_close(grads, torch.autograd.grad(value, [hidden, vectors]), rtol=1e-4, atol=1e-6)


def test_gradients_agree_with_finite_differences() -> None:
    hidden, vectors, wanted = case(3, 7, torch.float64)
    soft, spoken = listed(3, 7, 3, wanted), Spoken(teachers(3, 7, 2))
    drawn = CatalogSampler(np.ones(8, np.int64), 4).draw(wanted, np.random.default_rng(0))
    for blend in (Blend(0.4), Blend(0.4, 1.7)):
        assert torch.autograd.gradcheck(lambda h, v, b=blend: soft_softmax(h, v, wanted, soft, b), [hidden, vectors])
        assert torch.autograd.gradcheck(
            lambda h, v, b=blend: soft_sampled_softmax(h, v, wanted, soft, drawn, b), [hidden, vectors]
        )
    many = [Teacher(part.vectors.double(), part.items.double(), part.weight) for part in spoken._teachers]
    assert torch.autograd.gradcheck(
        lambda h, v: soft_softmax(h, v, wanted, Spoken(many), Blend(0.4)), [hidden, vectors]
    )


def test_in_the_mean_over_draws_a_sample_sums_up_to_the_catalogue() -> None:
    """What the softmax divides by is estimated without bias, so its logarithm and the gradient are near."""
    hidden, vectors, wanted = case(30, 200)
    hidden = (hidden.detach() / 3).requires_grad_()  # no item alone makes up the sum
    soft = listed(30, 200, 10, wanted)
    want = torch.autograd.grad(soft_softmax(hidden, vectors, wanted, soft, Blend(0.7)), hidden)[0]
    sampler, rng, total = CatalogSampler(np.ones(201, np.int64), 150), np.random.default_rng(0), 0.0
    for _ in range(60):
        loss = soft_sampled_softmax(hidden, vectors, wanted, soft, sampler.draw(wanted, rng), Blend(0.7))
        total += torch.autograd.grad(loss, hidden)[0] / 60
    assert (total - want).norm() / want.norm() < 0.04
