"""Losses whose gradient is computed in the forward pass, while the logits are at hand."""

from typing import Any

import torch
from torch import Tensor


class Ready(torch.autograd.Function):
    """A mean over n rows of `hidden` (n, d) and `items` (m, d), the first two arguments; all others get no gradient."""

    @staticmethod
    def keep(ctx: Any, grad_hidden: Tensor, grad_items: Tensor) -> None:
        """For the forward pass: the gradients of the summed loss."""
        ctx.save_for_backward(grad_hidden, grad_items)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The kept gradients, of the mean."""
        hidden, items = ctx.saved_tensors
        scale = grads[0] / len(hidden)
        return hidden * scale, items * scale, *([None] * (len(ctx.needs_input_grad) - 2))
