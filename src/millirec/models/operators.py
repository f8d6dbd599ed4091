"""How the operators of rounded layers are said in ONNX: with its own, or the runtime's, nothing of ours."""

from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnxscript import FLOAT, UINT8, opset20
from onnxscript.values import Op, Opset
from torch.onnx import register_custom_op_symbolic  # type: ignore[attr-defined]
from torch.onnx.symbolic_helper import parse_args

from millirec.models.layers import int4, linear  # noqa: F401  (each registers its operators)

op: Any = opset20
_RUNTIME = "com.microsoft"
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


def _int4(x: FLOAT, codes: UINT8, scale: FLOAT, bias: FLOAT, inputs: int) -> Any:
    matmul = Op(Opset(_RUNTIME, 1), "MatMulNBits", _MATMUL)
    return matmul(x, codes, scale, None, None, bias, **_sizes(inputs, codes.shape))


def _schema() -> onnx.defs.OpSchema:
    """What the exporter has to know of an operator that ONNX itself does not have."""
    of, optional = onnx.defs.OpSchema, onnx.defs.OpSchema.FormalParameterOption.Optional
    inputs = [of.FormalParameter("A", "T1"), of.FormalParameter("B", "T2"), of.FormalParameter("scales", "T1")]
    inputs += [of.FormalParameter(name, "T1", param_option=optional) for name in ("zero_points", "g_idx", "bias")]
    return of(
        "MatMulNBits",
        _RUNTIME,
        1,
        inputs=inputs,
        outputs=[of.FormalParameter("Y", "T1")],
        type_constraints=[("T1", ["tensor(float)"], ""), ("T2", ["tensor(uint8)"], "")],
        attributes=[of.Attribute(name, of.AttrType.INT) for name in ("K", "N", "bits", "block_size")],
    )


_MATMUL = _schema()


def _sizes(inputs: int, codes: Any, suffix: str = "") -> dict[str, int]:
    """Attributes of `MatMulNBits` for codes (out, blocks, size / 2)."""
    return {f"K{suffix}": inputs, f"N{suffix}": codes[0], f"bits{suffix}": 4, f"block_size{suffix}": 2 * codes[2]}


TRANSLATIONS: dict[Any, Any] = {
    torch.ops.millirec.int8_dynamic.default: _int8_dynamic,
    torch.ops.millirec.int8_static.default: _int8_static,
    torch.ops.millirec.int4.default: _int4,
}


def register_traced(opset: int) -> None:
    """Teach the same to the exporter that traces, for `opset`."""
    traced: dict[str, Callable[..., Any]] = {
        "int8_dynamic": _traced_dynamic,
        "int8_static": _traced_static,
        "int4": _traced_int4,
    }
    for name, symbolic in traced.items():
        register_custom_op_symbolic(f"millirec::{name}", symbolic, opset)


def _traced_dynamic(g: Any, x: Any, codes: Any, scale: Any, bias: Any) -> Any:
    q, step, middle = g.op("DynamicQuantizeLinear", x, outputs=3)
    return _traced_back(g, (q, codes, middle), g.op("Mul", step, scale), bias)


def _traced_static(g: Any, x: Any, codes: Any, scale: Any, bias: Any, step: Any, middle: Any) -> Any:
    q = g.op("QuantizeLinear", x, step, middle)
    return _traced_back(g, (q, codes, middle), g.op("Mul", step, scale), bias)


@parse_args("v", "v", "v", "v", "i")
def _traced_int4(g: Any, x: Any, codes: Any, scale: Any, bias: Any, inputs: int) -> Any:
    sizes = _sizes(inputs, codes.type().sizes(), "_i")
    nothing = g.op("prim::Constant")
    nothing.setType(torch._C.OptionalType.ofTensor())
    return g.op(f"{_RUNTIME}::MatMulNBits", x, codes, scale, nothing, nothing, bias, **sizes)


def _traced_back(g: Any, product: Any, scale: Any, bias: Any) -> Any:
    centre = g.op("Constant", value_t=torch.tensor(linear.MIDDLE, dtype=torch.uint8))
    whole = g.op("Cast", g.op("MatMulInteger", *product, centre), to_i=_FLOAT)
    return g.op("Add", g.op("Mul", whole, scale), bias)
