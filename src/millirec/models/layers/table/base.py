"""What every item table is, and how numbers of few bits are read from bytes."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from millirec.data.codes import unpack
from millirec.data.errors import ConfigError


class ItemTable(Protocol):
    """Vectors of `embedding_dim` numbers for rows 0..n; row 0 is padding.

    `unit`: the vectors may be brought to length 1 for scoring.
    """

    embedding_dim: int
    unit: bool

    def __call__(self, rows: Tensor) -> Tensor:
        """(..., d) of int rows (...)."""

    def vectors(self) -> Tensor:
        """All of them, (n + 1, d)."""


def output_vectors(table: ItemTable, rows: Tensor | None, temperature: float | None) -> Tensor:
    """What user vectors are compared with: all vectors (n + 1, d), or those of `rows` (..., d).

    Of length 1 when there is a `temperature` and the table allows it.
    """
    vectors = table.vectors() if rows is None else table(rows)
    return vectors if temperature is None or not table.unit else F.normalize(vectors, dim=-1)


def held_codes(bits: int) -> Tensor:
    """The numbers of `bits` bits that each byte holds, int64 (256, 8 / bits): unpacking is looking up."""
    return torch.from_numpy(unpack(np.arange(256, dtype=np.uint8)[:, None], bits).astype(np.int64))


def check_packing(count: int, bits: int, field: str) -> None:
    if count * bits % 8:
        raise ConfigError(f"{field} = {count} numbers of {bits} bits fill no whole bytes", "choose an even number")
