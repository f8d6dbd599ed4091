"""Losses against values by hand and against torch's own functions."""

import re

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

import millirec.train.losses.contrast as contrast_module
import millirec.train.losses.softmax as softmax_module
from millirec.config import convert
from millirec.data.errors import ConfigError
from millirec.train.losses import BCE, GBCE, InBatchSoftmax, LossConfig, SampledSoftmax, full_softmax
from millirec.train.losses.binary import binary
from millirec.train.losses.softmax import corrected, sampled_softmax
from millirec.train.negatives import BatchSampler, CatalogSampler, Negatives

Case = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def case(n: int, items: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Case:
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, 6, generator=rng, dtype=dtype, requires_grad=True)
    vectors = torch.randn(items + 1, 6, generator=rng, dtype=dtype, requires_grad=True)
    return hidden, vectors, torch.randint(1, items + 1, (n,), generator=rng)


def drawn(n: int, items: int, m: int, *, per_row: bool, dtype: torch.dtype = torch.float32) -> Negatives:
    """Some negatives with made-up counts and corrections."""
    rng = torch.Generator().manual_seed(7)
    rows = (torch.randperm(items, generator=rng) + 1)[:m]
    if per_row:
        rows = torch.randint(1, items + 1, (n, m), generator=rng)
    counts = torch.ones(rows.shape, dtype=dtype) if per_row else torch.arange(1.0, len(rows) + 1, dtype=dtype)
    table = torch.randn(items + 1, generator=rng, dtype=dtype)
    wanted = case(n, items)[2]
    return Negatives(rows, counts, table[rows], table[wanted])


def table_of(hidden: torch.Tensor, vectors: torch.Tensor, wanted: torch.Tensor, negatives: Negatives) -> torch.Tensor:
    """Logits (N, m) of negatives with -inf where the negative is the target."""
    rows = negatives.rows.expand(len(hidden), negatives.rows.shape[-1])
    logits = (vectors[rows] * hidden[:, None, :]).sum(2)
    return logits.masked_fill(rows == wanted[:, None], -torch.inf)


def plain_softmax(hidden: torch.Tensor, vectors: torch.Tensor, wanted: torch.Tensor, drawn: Negatives) -> torch.Tensor:
    logits = table_of(hidden, vectors, wanted, drawn) + drawn.counts.log() - drawn.log_expected
    own = (hidden * vectors[wanted]).sum(1) - drawn.log_expected_wanted
    return (torch.logsumexp(torch.cat([logits, own[:, None]], 1), 1) - own).mean()


def plain_binary(hidden: torch.Tensor, vectors: torch.Tensor, wanted: torch.Tensor, drawn: Negatives) -> torch.Tensor:
    logits = table_of(hidden, vectors, wanted, drawn)
    own = (hidden * vectors[wanted]).sum(1)
    size = 1 + drawn.counts.sum(-1).flatten()[0]
    return ((0.4 * F.softplus(-own) + (F.softplus(logits) * drawn.counts).sum(1)) / size).mean()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 30), st.sampled_from([1, 64, 1 << 20]))
def test_full_softmax_is_torchs_cross_entropy_value_and_gradient(n: int, items: int, chunk: int) -> None:
    hidden, vectors, wanted = case(n, items)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax_module, "_CHUNK_ELEMENTS", chunk)
        ours = full_softmax(hidden, vectors, wanted)
        grads = torch.autograd.grad(ours, [hidden, vectors])
    theirs = F.cross_entropy(hidden @ vectors[1:].T, wanted - 1)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(grads, torch.autograd.grad(theirs, [hidden, vectors]))


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("kind", ["softmax", "binary"])
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.sampled_from([1, 64, 1 << 20]))
def test_chunks_give_the_value_and_the_gradient_of_the_formula(
    kind: str, per_row: bool, n: int, m: int, chunk: int
) -> None:
    hidden, vectors, wanted = case(n, 15)
    negatives = drawn(n, 15, m, per_row=per_row)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrast_module, "_CHUNK_ELEMENTS", chunk)
        if kind == "softmax":
            ours, theirs = sampled_softmax(hidden, vectors, wanted, negatives), plain_softmax
        else:
            ours, theirs = binary(hidden, vectors, wanted, negatives, 0.4), plain_binary
        grads = torch.autograd.grad(ours, [hidden, vectors])
    value = theirs(hidden, vectors, wanted, negatives)
    torch.testing.assert_close(ours, value)
    torch.testing.assert_close(grads, torch.autograd.grad(value, [hidden, vectors]))


@pytest.mark.parametrize("per_row", [False, True])
def test_gradients_agree_with_finite_differences(per_row: bool) -> None:
    hidden, vectors, wanted = case(5, 9, dtype=torch.float64)
    negatives = drawn(5, 9, 4, per_row=per_row, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda h, v: sampled_softmax(h, v, wanted, negatives), [hidden, vectors])
    assert torch.autograd.gradcheck(lambda h, v: binary(h, v, wanted, negatives, 0.4), [hidden, vectors])
    assert torch.autograd.gradcheck(lambda h, v: sampled_softmax(h, v, wanted, negatives, 2), [hidden, vectors])


def negatives_of(rows: list[int], counts: list[float], expected: list[float], own: float = 1.0) -> Negatives:
    return Negatives(torch.tensor(rows), torch.tensor(counts), torch.tensor(expected).log(), torch.tensor([own]).log())


ONE = torch.tensor([[1.0]]), torch.tensor([[0.0], [2.0], [3.0], [-1.0]]), torch.tensor([1])


def test_sampled_softmax_by_hand() -> None:
    """Target 2.0 expected 0.5 times; negative 3.0 drawn twice, expected 0.25 times."""
    loss = sampled_softmax(*ONE, negatives_of([2], [2.0], [0.25], own=0.5))
    own, other = np.exp(2.0) / 0.5, 2 * np.exp(3.0) / 0.25
    assert loss.item() == pytest.approx(np.log1p(other / own))


def test_bce_by_hand() -> None:
    """-(log s(2) + 2 log(1 - s(3)) + log(1 - s(-1))) / 4."""
    loss = binary(*ONE, negatives_of([2, 3], [2.0, 1.0], [1.0, 1.0]))
    want = (np.log1p(np.exp(-2.0)) + 2 * np.log1p(np.exp(3.0)) + np.log1p(np.exp(-1.0))) / 4
    assert loss.item() == pytest.approx(want)


def test_gbce_raises_the_targets_probability_to_the_papers_power() -> None:
    """256 of 3415 others, t = 0.75: beta = alpha (t (1 - 1 / alpha) + 1 / alpha), alpha = 256 / 3415."""
    alpha = 256 / 3415
    assert GBCE().power_of(3416) == pytest.approx(alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha))
    assert GBCE(calibration=0.0).power_of(3416) == 1.0
    assert GBCE(negatives=512).power_of(100) == 1.0
    loss = binary(*ONE, negatives_of([2], [1.0], [1.0]), power=0.25)
    assert loss.item() == pytest.approx((0.25 * np.log1p(np.exp(-2.0)) + np.log1p(np.exp(3.0))) / 2)


def test_a_negative_that_is_the_target_does_not_count() -> None:
    assert sampled_softmax(*ONE, negatives_of([1], [2.0], [1.0])).item() == pytest.approx(0.0)
    want = np.log1p(np.exp(-2.0)) / 3
    assert binary(*ONE, negatives_of([1], [2.0], [1.0])).item() == pytest.approx(want)


def test_only_the_hardest_of_each_row_are_kept() -> None:
    hidden, vectors = torch.tensor([[1.0], [-1.0]]), ONE[1]
    negatives = Negatives(torch.tensor([2, 3]), torch.ones(2), torch.zeros(2), torch.zeros(2))
    loss = sampled_softmax(hidden, vectors, torch.tensor([1, 1]), negatives, keep=1)
    assert loss.item() == pytest.approx((np.log1p(np.exp(3.0 - 2.0)) + np.log1p(np.exp(1.0 + 2.0))) / 2)


SKEWED = np.arange(31)
SAMPLERS = {
    "uniform": CatalogSampler(SKEWED, 4000),
    "popularity": CatalogSampler(SKEWED, 4000, power=0.75),
    "per-row": CatalogSampler(SKEWED, 4000, power=0.5, per_row=True),
    "in-batch": BatchSampler(SKEWED, 0),
    "mixed": BatchSampler(SKEWED, 0, 500),
}


def skewed(n: int, rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.choice(31, n, p=SKEWED / SKEWED.sum()))


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_with_the_negatives_corrected_a_sample_gives_the_full_softmaxs_gradient(sampler: str) -> None:
    """In the mean over draws, whatever the sampler."""
    hidden, vectors, _ = case(60, 30)
    rng = np.random.default_rng(0)
    wanted = skewed(60, rng)
    want = torch.autograd.grad(full_softmax(hidden, vectors, wanted), hidden)[0]
    total, draws = torch.zeros_like(hidden), 5 if sampler == "per-row" else 100
    for _ in range(draws):
        # The sample of an in-batch sampler is of targets: here those of other rows.
        drawn = SAMPLERS[sampler].draw(skewed(4000, rng) if sampler != "per-row" else wanted, rng)
        drawn = drawn._replace(log_expected_wanted=torch.zeros(60))
        total += torch.autograd.grad(sampled_softmax(hidden, vectors, wanted, drawn), hidden)[0]
    assert (total / draws - want).norm() / want.norm() < 0.04


def test_with_both_corrected_the_best_answer_is_the_full_softmaxs() -> None:
    """At the true distribution the mean gradient is 0 even with few negatives; not so without correction."""
    counts = np.arange(201)
    few = CatalogSampler(counts, 5, power=1.0, per_row=True)
    scores = torch.from_numpy(counts / counts.sum()).float().clamp_min(1e-9).log()[:, None].requires_grad_()
    hidden, rng = torch.ones(400_000, 1), np.random.default_rng(1)
    wanted = torch.from_numpy(rng.choice(201, len(hidden), p=counts / counts.sum()))
    drawn, sizes = few.draw(wanted, rng), {}
    for correction in ("both", "none"):
        loss = sampled_softmax(hidden, scores, wanted, corrected(drawn, correction))
        sizes[correction] = float(torch.autograd.grad(loss, scores)[0].abs().sum())
    assert sizes["both"] < 0.1 * sizes["none"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"kind": "sampled-softmax", "negatives": 0}, "$.train.loss.negatives = 0"),
        ({"kind": "bce", "negatives": 0}, "$.train.loss.negatives = 0"),
        ({"kind": "gbce", "negatives": 0}, "$.train.loss.negatives = 0"),
        ({"kind": "bce", "sampling": "none"}, "$.train.loss.sampling = 'none'"),
        ({"kind": "bce", "power": -1.0}, "$.train.loss.power"),
        ({"kind": "bce", "pool": 1000}, "$.train.loss.pool"),
        ({"kind": "bce", "sampling": "adaptive", "pool": 100}, "fewer than $.train.loss.negatives = 512"),
        ({"kind": "bce", "sampling": "in-batch", "per_row": True}, "$.train.loss.per_row"),
        ({"kind": "sampled-softmax", "correction": "some"}, "$.train.loss.correction"),
        ({"kind": "in-batch-softmax", "correction": "some"}, "$.train.loss.correction"),
        ({"kind": "gbce", "sampling": "popularity"}, "$.train.loss.sampling"),
        ({"kind": "gbce", "calibration": 1.5}, "$.train.loss.calibration"),
        ({"kind": "in-batch-softmax", "negatives": -1}, "$.train.loss.negatives"),
        ({"kind": "full-softmax", "negatives": 5}, "negatives"),
    ],
)
def test_a_loss_that_cannot_work_is_refused(fields: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(field)):
        convert(fields, LossConfig, "$.train.loss")


def test_every_loss_comes_back_from_its_fields() -> None:
    for loss in (
        BCE(negatives=1, per_row=True),
        GBCE(),
        SampledSoftmax(sampling="adaptive"),
        InBatchSoftmax(uniform=9),
    ):
        assert convert(msgspec.to_builtins(loss), LossConfig, "") == loss
