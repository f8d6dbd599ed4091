"""Numbers rounded to few levels, and training that feels it.

The width of a level that loses least of normally distributed numbers is known (Max, "Quantizing for Minimum
Distortion", IRE 1960); around it the best one of a few is taken for each row. Levels that are wider by `step_scale` are
fewer different numbers, which a file packs into fewer bytes than narrower codes of as many levels (entropy-coded scalar
quantisation: Gish and Pierce, IEEE Trans. Information Theory 1968).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from millirec.data.codes import middle, pack
from millirec.models.layers import int4
from millirec.models.layers.linear import MIDDLE, channel_codes, input_range, rounded
from millirec.models.layers.table import DenseTable

MOST_STEP = 4.0  # of `step_scale`: beyond, nearly all numbers fall on two levels
_WIDTHS = {2: 0.9957, 4: 0.3352, 8: 0.0308}  # of levels, for a spread of 1
_TRIALS = (0.6, 0.75, 0.87, 1.0, 1.13, 1.3, 1.5)
_STEPS = (0.7, 0.8, 0.87, 0.94, 1.0, 1.07)  # of an eighth of a block's largest weight


def block_codes(weight: Tensor, step_scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Weights (out, in) as `Int4Linear` keeps them: codes (out, blocks, size / 2), scales (out, blocks).

    Scales have 5 significant bits. One that is negative lets the largest weight of a block, which has 8 levels on one
    side and 7 on the other, lie on the side of 8.
    """
    blocks = _blocks(weight)
    scale = _block_scale(blocks, step_scale)
    numbers = _block_levels(blocks, scale).to(torch.uint8)
    return torch.from_numpy(pack(numbers.cpu().numpy(), 4)), scale.squeeze(-1)


def _blocks(weight: Tensor) -> Tensor:
    """(out, blocks, size) from (out, in), the last block filled with zeros."""
    size = int4.block_size(weight.shape[1])
    return nn.functional.pad(weight, (0, -weight.shape[1] % size)).reshape(len(weight), -1, size)


def _block_scale(blocks: Tensor, step_scale: float) -> Tensor:
    """The width of a level (out, blocks, 1) that loses least of each block, times `step_scale`."""
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    best, least = torch.zeros_like(largest), torch.full_like(largest, torch.inf)
    for factor in (*_STEPS, *(-step for step in _STEPS)):
        scale = _short(largest * (factor / int4.MIDDLE))
        error = ((_block_levels(blocks, scale) - int4.MIDDLE) * scale - blocks).square().sum(-1, keepdim=True)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return _short(best * step_scale)


def _short(scale: Tensor) -> Tensor:
    """To 5 significant bits: finer than the widths that are tried, and they pack into half the bytes."""
    return shortened(scale, 5)


def shortened(numbers: Tensor, bits: int) -> Tensor:
    """To so many significant bits, exact in 16."""
    mantissa, exponent = torch.frexp(numbers)
    levels = 1 << bits
    short: Tensor = torch.ldexp((mantissa * levels).round() / levels, exponent).half().to(numbers.dtype)
    return short


def _block_levels(blocks: Tensor, scale: Tensor) -> Tensor:
    safe = torch.where(scale != 0, scale, torch.ones_like(scale))
    return (blocks / safe + int4.MIDDLE).round().clamp(0, 15)


def row_codes(rows: Tensor, bits: int, step_scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Rows (n, d) as numbers below 2 ** bits, uint8 (n, d), and scales (n, 1) that are exact in 16 bits.

    Below 8 bits scales have 5 significant bits. A row is about (numbers - middle) * scale; a row of zeros has scale 0.
    """
    scale = _row_scale(rows, bits, step_scale)
    levels = _levels(rows, scale, bits)
    return levels.to(torch.uint8), scale


def _row_scale(rows: Tensor, bits: int, step_scale: float) -> Tensor:
    """The width of a level (n, 1) that loses least of each row, times `step_scale`."""
    if bits == 8:
        widest = 2 * rows.abs().amax(1, keepdim=True) / (2**bits - 1)
        scale: Tensor = (widest * step_scale).half().to(rows.dtype)
        return scale
    spread = rows.square().mean(1, keepdim=True).sqrt()
    best, least = torch.zeros_like(spread), torch.full_like(spread, torch.inf)
    for factor in _TRIALS:
        scale = _short(spread * (_WIDTHS[bits] * factor))
        error = ((_levels(rows, scale, bits) - middle(bits)) * scale - rows).square().sum(1, keepdim=True)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return _short(best * step_scale)


def _levels(rows: Tensor, scale: Tensor, bits: int) -> Tensor:
    safe = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (rows / safe + middle(bits)).round().clamp(0, 2**bits - 1)


class RoundedChannels(nn.Module):
    """For `parametrize`: weights as `channel_codes` leave them; gradients pass as if nothing had happened."""

    def forward(self, weight: Tensor) -> Tensor:
        """(out, in) to (out, in)."""
        codes, scale = channel_codes(weight.detach())
        kept = (codes.T.to(weight.dtype) - MIDDLE) * scale[:, None]
        return weight + (kept - weight).detach()


class RoundedBlocks(nn.Module):
    """For `parametrize`: weights as `block_codes` leave them; gradients pass as if nothing had happened."""

    def __init__(self, step_scale: float = 1.0) -> None:
        super().__init__()
        self.step_scale = step_scale

    def forward(self, weight: Tensor) -> Tensor:
        """(out, in) to (out, in)."""
        with torch.no_grad():
            blocks = _blocks(weight)
            scale = _block_scale(blocks, self.step_scale)
            kept = ((_block_levels(blocks, scale) - int4.MIDDLE) * scale).flatten(1)[:, : weight.shape[1]]
        return weight + (kept - weight).detach()


class RoundedRows(nn.Module):
    """For `parametrize`: rows as `row_codes` leave them; gradients pass as if nothing had happened."""

    def __init__(self, bits: int, step_scale: float = 1.0) -> None:
        super().__init__()
        self.bits, self.step_scale = bits, step_scale

    def forward(self, rows: Tensor) -> Tensor:
        """(n, d) to (n, d)."""
        with torch.no_grad():
            scale = _row_scale(rows, self.bits, self.step_scale)
            kept = (_levels(rows, scale, self.bits) - middle(self.bits)) * scale
        return rows + (kept - rows).detach()


def rounded_inputs(ranges: dict[str, tuple[Tensor, Tensor]] | None, name: str, x: Tensor) -> Tensor:
    """The input of a linear layer as bytes leave it; `ranges` by layer when they are calibrated."""
    with torch.no_grad():
        scale, centre = input_range(x.min(), x.max()) if ranges is None else ranges[name]
        kept = rounded(x, scale, centre.to(x.dtype)) * scale
    return x + (kept - x).detach()


class Rounding(NamedTuple):
    """What is rounded how. `weights`: linear layers, integers only; `bits`: item vectors; None = left alone."""

    weights: str | None
    bits: int | None
    step_scale: float = 1.0
    ranges: dict[str, tuple[Tensor, Tensor]] | None = None


def train_rounded(network: nn.Module, rounding: Rounding) -> None:
    """Let a network compute with rounded numbers while it keeps, and learns, exact ones."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Linear):
            _round_linear(module, name, rounding)
        if rounding.bits is not None and isinstance(module, DenseTable):
            rows = RoundedRows(rounding.bits, rounding.step_scale)
            parametrize.register_parametrization(module, "weight", rows)


def _round_linear(module: nn.Linear, name: str, rounding: Rounding) -> None:
    if rounding.weights == "int4":
        parametrize.register_parametrization(module, "weight", RoundedBlocks(rounding.step_scale))
    elif rounding.weights in ("int8", "int8-static"):
        parametrize.register_parametrization(module, "weight", RoundedChannels())
        module.register_forward_pre_hook(lambda _, given: (rounded_inputs(rounding.ranges, name, given[0]),))


def exact(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """The exact numbers behind the rounded ones, under the names that they had before `train_rounded`."""
    return {
        name.replace("parametrizations.", "").removesuffix(".original"): value for name, value in parameters.items()
    }
