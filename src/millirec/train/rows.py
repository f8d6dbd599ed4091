"""An optimizer whose time does not grow with the catalogue: only the rows that a batch touched are moved."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from millirec.data.errors import ConfigError


def sparse_items(network: nn.Module) -> None:
    """Let the gradient of the item vectors hold only the rows that were looked up.

    Raises ConfigError when the network has no table of item vectors.
    """
    item = getattr(network, "item", None)
    if not isinstance(item, nn.Embedding):
        raise ConfigError(
            f"$.train.sparse_rows: {type(network).__name__} has no item vectors that are looked up by row",
            "leave it out, or choose a sequence model with $.model.table.kind = 'dense'",
        )
    item.sparse = True


class RowAdam(torch.optim.AdamW):
    """AdamW for dense gradients; of a table with sparse gradients only the rows that have one are moved.

    The moments of the other rows rest, as in torch's SparseAdam: they are not decayed while nobody looks at the row.
    State and learning rate are kept as those of any optimizer are.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of all parameters that have a gradient."""
        del closure
        held: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    self._move(parameter, parameter.grad.coalesce(), group)
                    held.append((parameter, parameter.grad))
                    parameter.grad = None  # torch's AdamW refuses sparse gradients
        super().step()
        for parameter, gradient in held:
            parameter.grad = gradient

    def _move(self, table: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
        state["step"] += 1
        rows, values = gradient.indices()[0], gradient.values()
        (first, second), step = group["betas"], float(state["step"])
        mean = state["exp_avg"][rows].lerp_(values, 1 - first)
        square = state["exp_avg_sq"][rows].mul_(second).addcmul_(values, values, value=1 - second)
        state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
        scale = square.div_(1 - second**step).sqrt_().add_(group["eps"])
        table.index_add_(0, rows, mean.div_(scale), alpha=-group["lr"] / (1 - first**step))


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor], largest: float) -> None:
    """Scale all gradients down together so that their norm is at most `largest`; sparse ones too."""
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()  # a row that was looked up twice has one gradient
            gradients.append(parameter.grad.values())
        else:
            gradients.append(parameter.grad)
    scale = (largest / (nn.utils.get_total_norm(gradients) + 1e-6)).clamp_max(1.0)
    torch._foreach_mul_(gradients, scale)
