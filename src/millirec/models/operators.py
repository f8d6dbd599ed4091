"""How the operators of `layers/linear.py` are said in ONNX: with its integer operators, nothing of our own."""

from typing import Any

import onnx
import torch
from onnxscript import FLOAT, UINT8, opset20
from torch.onnx import register_custom_op_symbolic  # type: ignore[attr-defined]

from millirec.models.layers import linear

op: Any = opset20
_FLOAT = onnx.TensorProto.FLOAT
_CENTRE = onnx.helper.make_tensor("centre", onnx.TensorProto.UINT8, (), [linear.MIDDLE])


def _int8_dynamic(x: FLOAT, codes: UINT8, scale: FLOAT, bias: FLOAT) -> Any:
    centre = op.Constant(value=_CENTRE)
    q, step, middle = op.DynamicQuantizeLinear(x)
    product = op.Cast(op.MatMulInteger(q, codes, middle, centre), to=_FLOAT)
    return op.Add(op.Mul(product, op.Mul(step, scale)), bias)


def _int8_static(x: FLOAT, codes: UINT8, scale: FLOAT, bias: FLOAT, step: FLOAT, middle: UINT8) -> Any:
    centre = op.Constant(value=_CENTRE)
    q = op.QuantizeLinear(x, step, middle)
    product = op.Cast(op.MatMulInteger(q, codes, middle, centre), to=_FLOAT)
    return op.Add(op.Mul(product, op.Mul(step, scale)), bias)


TRANSLATIONS: dict[Any, Any] = {
    torch.ops.millirec.int8_dynamic.default: _int8_dynamic,
    torch.ops.millirec.int8_static.default: _int8_static,
}


def register_traced(opset: int) -> None:
    """Teach the same to the exporter that traces, for `opset`."""
    for name, symbolic in (("int8_dynamic", _traced_dynamic), ("int8_static", _traced_static)):
        register_custom_op_symbolic(f"millirec::{name}", symbolic, opset)


def _traced_dynamic(g: Any, x: Any, codes: Any, scale: Any, bias: Any) -> Any:
    q, step, middle = g.op("DynamicQuantizeLinear", x, outputs=3)
    return _traced_back(g, (q, codes, middle), g.op("Mul", step, scale), bias)


def _traced_static(g: Any, x: Any, codes: Any, scale: Any, bias: Any, step: Any, middle: Any) -> Any:
    q = g.op("QuantizeLinear", x, step, middle)
    return _traced_back(g, (q, codes, middle), g.op("Mul", step, scale), bias)


def _traced_back(g: Any, product: Any, scale: Any, bias: Any) -> Any:
    centre = g.op("Constant", value_t=torch.tensor(linear.MIDDLE, dtype=torch.uint8))
    whole = g.op("Cast", g.op("MatMulInteger", *product, centre), to_i=_FLOAT)
    return g.op("Add", g.op("Mul", whole, scale), bias)
