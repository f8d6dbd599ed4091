"""The weights that a network starts from."""

import torch
from torch import nn

from millirec.models.layers.table import DenseTable, ItemTable


def items(table: ItemTable) -> None:
    """The vectors of items, where they are floats: as in `small`; other tables have first values of their own."""
    if isinstance(table, DenseTable):
        small(table)


def small(module: nn.Module) -> None:
    """For `nn.Module.apply`: weights from a normal distribution of 0.02, cut at twice that; biases and padding 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()
