"""The way to train on a processor against torch's own kernel, and when it is taken."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from millirec.models.layers.self_attention import causal_attention, open_attention

SIZES = [(3, 2, 200, 8), (2, 1, 7, 4), (4, 3, 81, 5), (1, 2, 1, 3), (2, 2, 161, 16)]


def inputs(sizes: tuple[int, ...]) -> list[Tensor]:
    """Three tensors (B, H, L, D) with strides as the blocks of a Transformer make them."""
    batch, heads, places, size = sizes
    return [torch.randn(batch, places, heads, size).transpose(1, 2).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("kind", ["causal", "open", "masked"])
@pytest.mark.parametrize("sizes", SIZES)
def test_values_and_gradients_are_those_of_the_fused_kernel(kind: str, sizes: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    batch, _, places, _ = sizes
    real = None
    if kind == "masked":
        real = torch.rand(batch, places) < 0.6
        real[:, 0] = True

    def attend(query: Tensor, key: Tensor, value: Tensor, *, training: bool) -> Tensor:
        if kind == "causal":
            return causal_attention(query, key, value, training=training)
        return open_attention(query, key, value, real, training=training)

    tensors, outer = inputs(sizes), torch.randn(sizes)
    found, wanted = (attend(*tensors, training=training) for training in (True, False))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    pairs = zip(torch.autograd.grad(found, tensors, outer), torch.autograd.grad(wanted, tensors, outer), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_gradients_are_right_by_differences() -> None:
    torch.manual_seed(0)
    tensors = [x.detach().double().requires_grad_() for x in inputs((2, 2, 83, 3))]
    assert torch.autograd.gradcheck(lambda *x: causal_attention(*x, training=True), tensors, fast_mode=True)


def test_three_places_by_hand() -> None:
    query = key = torch.zeros(1, 1, 3, 2)  # all places in sight weigh the same
    value = torch.tensor([[3.0, 0.0], [1.0, 2.0], [-1.0, 4.0]])[None, None]
    mixed = causal_attention(query, key, value, training=True)
    torch.testing.assert_close(mixed[0, 0], torch.tensor([[3.0, 0.0], [2.0, 1.0], [1.0, 2.0]]))
    mixed = open_attention(query, key, value, torch.tensor([[True, False, True]]), training=True)
    torch.testing.assert_close(mixed[0, 0], torch.tensor([[1.0, 2.0]] * 3))


def test_sums_stay_in_bfloat16_under_autocast() -> None:
    tensors = [x.bfloat16() for x in inputs((2, 2, 90, 8))]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = causal_attention(*tensors, training=True)
    assert mixed.dtype == torch.bfloat16
    wanted = causal_attention(*(x.float() for x in tensors), training=True)
    torch.testing.assert_close(mixed.float(), wanted, rtol=0.03, atol=0.03)


def of(sizes: tuple[int, ...], *, training: bool) -> Callable[[], Tensor]:
    return lambda: causal_attention(*inputs(sizes), training=training)


@pytest.mark.parametrize(
    ("attend", "fused"),
    [
        (of((2, 2, 9, 4), training=True), False),
        (of((2, 2, 9, 4), training=False), True),
        (of((1, 8, 2049, 1), training=True), True),  # its weights would take more than 128 MiB
    ],
)
def test_which_way_is_taken(attend: Callable[[], Tensor], fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fused_kernel = F.scaled_dot_product_attention
    calls: list[bool] = []

    def watched(*args: Any, **options: Any) -> Tensor:
        calls.append(True)
        return fused_kernel(*args, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    attend()
    assert bool(calls) is fused
