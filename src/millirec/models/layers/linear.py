"""Linear layers that compute in integers, as the operators of ONNX do.

Weights are unsigned bytes about 128, with a scale for each output: on processors without dot products of bytes, sums of
products of unsigned and signed bytes saturate at 16 bits; those of two unsigned ones are exact. Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018.
"""

import torch
from torch import Tensor, nn

MIDDLE = 128
_EXACT_FLOATS = 512  # products of so many bytes sum up below 2 ** 24, where floats are whole


class Int8Linear(nn.Module):
    """x W' + b with inputs and weights rounded to bytes; (..., in) to (..., out).

    `codes` uint8 (in, out) and `scale` float32 (out,). `static`: inputs are scaled by `input_scale` about
    `input_middle`, both calibrated, instead of by their own least and largest.
    """

    codes: Tensor
    scale: Tensor
    bias: Tensor
    input_scale: Tensor
    input_middle: Tensor

    def __init__(self, inputs: int, outputs: int, *, static: bool) -> None:
        super().__init__()
        self.in_features, self.out_features, self.static = inputs, outputs, static
        self.register_buffer("codes", torch.full((inputs, outputs), MIDDLE, dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(outputs))
        self.register_buffer("bias", torch.zeros(outputs))
        if static:
            self.register_buffer("input_scale", torch.ones(()))
            self.register_buffer("input_middle", torch.tensor(MIDDLE, dtype=torch.uint8))

    @classmethod
    def of(cls, layer: nn.Linear, levels: int = 127) -> "Int8Linear":
        """A layer of floats rounded, its inputs scaled as they come; see `channel_codes`."""
        out = cls(layer.in_features, layer.out_features, static=False)
        out.codes, out.scale = channel_codes(layer.weight.detach(), levels)
        if layer.bias is not None:
            out.bias = layer.bias.detach().clone()
        return out

    @property
    def weight(self) -> Tensor:
        """The weights as floats (out, in), for who multiplies by them otherwise."""
        return ((self.codes.to(self.scale.dtype) - MIDDLE) * self.scale).T

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        if self.static:
            out: Tensor = torch.ops.millirec.int8_static(
                x, self.codes, self.scale, self.bias, self.input_scale, self.input_middle
            )
        else:
            out = torch.ops.millirec.int8_dynamic(x, self.codes, self.scale, self.bias)
        return out


def channel_codes(weight: Tensor, levels: int = 127) -> tuple[Tensor, Tensor]:
    """Weights (out, in) as bytes (in, out) about 128, and a scale for each output (out,).

    `levels` on either side; with 63 the sum of two products with unsigned bytes fits into 16 bits when signed.
    """
    scale = weight.abs().amax(1).clamp_min(1e-12) / levels
    codes = (weight / scale[:, None]).round().clamp(-levels, levels) + MIDDLE
    return codes.to(torch.uint8).T.contiguous(), scale


def input_range(least: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Scale (float) and middle (uint8) of bytes that span `least` to `largest` and hold 0 exactly."""
    least, largest = least.clamp(max=0.0), largest.clamp(min=0.0)
    scale = (largest - least) / 255
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return scale, (-least / scale).round().clamp(0, 255).to(torch.uint8)


def rounded(x: Tensor, scale: Tensor, middle: Tensor) -> Tensor:
    """What is left of x as bytes, counted from the middle: whole floats."""
    return ((x / scale).round() + middle).clamp(0, 255) - middle


@torch.library.custom_op("millirec::int8_dynamic", mutates_args=())
def int8_dynamic(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """As `DynamicQuantizeLinear`, `MatMulInteger`, and the way back to floats."""
    step, middle = input_range(x.min(), x.max())
    return _product(rounded(x, step, middle.float()), codes) * (step * scale) + bias


@torch.library.custom_op("millirec::int8_static", mutates_args=())
def int8_static(x: Tensor, codes: Tensor, scale: Tensor, bias: Tensor, step: Tensor, middle: Tensor) -> Tensor:
    """As `QuantizeLinear`, `MatMulInteger`, and the way back to floats."""
    return _product(rounded(x, step, middle.float()), codes) * (step * scale) + bias


def _product(x: Tensor, codes: Tensor) -> Tensor:
    """x of whole floats times the codes about their middle, exactly."""
    kind = torch.float32 if len(codes) <= _EXACT_FLOATS else torch.float64
    return (x.to(kind) @ (codes.to(kind) - MIDDLE)).float()


def _shape(x: Tensor, codes: Tensor, *_: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], codes.shape[1])


int8_dynamic.register_fake(_shape)
int8_static.register_fake(_shape)
