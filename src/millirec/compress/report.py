"""What a compression changed: numbers, bytes and multiply-adds before and after, and which zeros bring no speed."""

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from millirec.data.tensors import save_tensors
from millirec.models.base import Inputs, SequenceModel
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import max_length
from millirec.models.export import random_batch


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """Of one checkpoint.

    `numbers` in its parameters; `zeros` among the floats of them; `bytes` of the parameters on disk; `multiply_adds` of
    matrix products for the vector of one user whose history is as long as the model reads, None for a model without
    user vectors.
    """

    numbers: int
    zeros: int
    bytes: int
    multiply_adds: int | None


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """`before` and `after`; `zeros`: their share in each parameter after, where there are any; `remarks` in words."""

    before: Size
    after: Size
    zeros: dict[str, float]
    remarks: tuple[str, ...]


def described(before: Checkpoint, after: Checkpoint) -> Description:
    """Both checkpoints measured alike."""
    sizes = size_of(before), size_of(after)
    return Description(
        before=sizes[0], after=sizes[1], zeros=zeros_by_parameter(after), remarks=tuple(_remarks(*sizes))
    )


def size_of(checkpoint: Checkpoint) -> Size:
    """Count, and write the parameters once to weigh them."""
    values = checkpoint.parameters.values()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "parameters.safetensors"
        save_tensors({name: value.detach().cpu().numpy() for name, value in checkpoint.parameters.items()}, path)
        size = path.stat().st_size
    return Size(
        numbers=sum(value.numel() for value in values),
        zeros=sum(map(zeros, values)),
        bytes=size,
        multiply_adds=multiply_adds(checkpoint.network(), len(checkpoint.catalog), max_length(checkpoint.config)),
    )


def zeros_by_parameter(checkpoint: Checkpoint) -> dict[str, float]:
    """The share of zeros in each parameter that has some."""
    found = {name: zeros(value) / max(1, value.numel()) for name, value in checkpoint.parameters.items()}
    return {name: share for name, share in found.items() if share}


def multiply_adds(network: nn.Module, n_items: int, length: int) -> int | None:
    """Of the matrix products for one user vector after `length` events; None when the model has none."""
    if not isinstance(network, SequenceModel):
        return None
    inputs = Inputs.of(random_batch(n_items, 1, length, seed=0))
    counter = FlopCounterMode(display=False, custom_mapping=COUNTED)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:  # fused attention would not be counted
        network.user_vectors(inputs)
    return counter.get_total_flops() // 2


def _int8_flops(x: Any, codes: Any, *_: Any, **__: Any) -> int:
    """Of shapes (..., in) and (in, out)."""
    return int(2 * torch.Size(x).numel() * codes[1])


def _int4_flops(x: Any, codes: Any, *_: Any, **__: Any) -> int:
    """Of shapes (..., in) and (out, blocks, size / 2)."""
    return int(2 * torch.Size(x).numel() * codes[0])


def _recurrent_flops(x: Any, inputs: Any, states: Any, *_: Any, **__: Any) -> int:
    """Of shapes (L, B, in), and (gates, in) and (gates, h) of the weights of one layer."""
    return int(2 * x[0] * x[1] * (torch.Size(inputs).numel() + torch.Size(states).numel()))


COUNTED: dict[Any, Any] = {
    torch.ops.millirec.int8_dynamic: _int8_flops,
    torch.ops.millirec.int8_static: _int8_flops,
    torch.ops.millirec.int4: _int4_flops,
    torch.ops.aten.mkldnn_rnn_layer: _recurrent_flops,
}
"""How the counter of flops counts our operators."""


def zeros(value: Tensor) -> int:
    """Among floats; bytes have none that tell."""
    return int((value == 0).sum()) if value.is_floating_point() else 0


def _remarks(before: Size, after: Size) -> list[str]:
    told = []
    if after.zeros > before.zeros:
        told.append(
            f"{after.zeros:,} of {after.numbers:,} numbers are zeros that bring no speed: they make files smaller, but "
            "an answer multiplies by them as by all others (take whole parts out with prune-structure for speed)"
        )
    if before.multiply_adds and after.multiply_adds is not None and after.multiply_adds < before.multiply_adds:
        less = 1 - after.multiply_adds / before.multiply_adds
        told.append(f"a user vector takes {less:.0%} fewer multiply-adds")
    return told
