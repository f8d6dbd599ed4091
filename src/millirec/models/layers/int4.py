"""Linear layers whose weights are numbers of 4 bits, as ONNX Runtime's operator for large language models keeps them.

Sixteen levels and a scale for each block of weights: blocks of an output's weights, so that an outlier costs only its
block. Inputs and sums stay floats. Dettmers and Zettlemoyer, "The case for 4-bit precision", ICML 2023.
"""

import torch
from torch import Tensor, nn

MIDDLE = 8
_BLOCKS = (32, 16)


def block_size(inputs: int) -> int:
    """How many weights share a scale: 32, or 16 where that leaves less of the last block empty."""
    return min(_BLOCKS, key=lambda size: (-inputs % size, -size))


class Int4Linear(nn.Module):
    """x W' + b; (..., in) to (..., out).

    `codes` uint8 (out, blocks, size / 2), lower bits first, and `scale` float32 (out, blocks): a weight is
    (code - 8) * scale.
    """

    codes: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.in_features, self.out_features, size = inputs, outputs, block_size(inputs)
        blocks = -(-inputs // size)
        self.register_buffer("codes", torch.full((outputs, blocks, size // 2), MIDDLE * 17, dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(outputs, blocks))
        self.register_buffer("bias", torch.zeros(outputs))

    @property
    def weight(self) -> Tensor:
        """The weights as floats (out, in), for who multiplies by them otherwise."""
        return unpacked(self.codes, self.scale, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        out: Tensor = torch.ops.millirec.int4(x, self.codes, self.scale, self.bias, self.in_features)
        return out


def unpacked(codes: Tensor, scale: Tensor, inputs: int) -> Tensor:
    """Weights (out, in) of codes (out, blocks, size / 2) and scales (out, blocks)."""
    numbers = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2)
    return ((numbers.to(scale.dtype) - MIDDLE) * scale[..., None]).flatten(1)[:, :inputs]


@torch.library.custom_op("millirec::int4", mutates_args=())
def int4(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor, inputs: int) -> Tensor:
    """As `MatMulNBits` of ONNX Runtime."""
    return x @ unpacked(codes, scale, inputs).T + bias


@int4.register_fake
def _shape(x: Tensor, codes: Tensor, *_: object) -> Tensor:
    return x.new_empty(*x.shape[:-1], codes.shape[0])
