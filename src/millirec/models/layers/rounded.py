"""Which linear layer stands for which kind of weights."""

from torch import nn

from millirec.models.layers.int4 import Int4Linear
from millirec.models.layers.linear import Int8Linear


def round_linears(network: nn.Module, weights: str) -> None:
    """Put rounded layers in the place of linear ones where `weights` are integers; their values come afterwards."""
    if weights not in ("int8", "int8-static", "int4"):
        return
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, _rounded(child.in_features, child.out_features, weights))


def _rounded(inputs: int, outputs: int, weights: str) -> nn.Module:
    if weights == "int4":
        return Int4Linear(inputs, outputs)
    return Int8Linear(inputs, outputs, static=weights == "int8-static")
