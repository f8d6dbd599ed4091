"""Columns of 32-bit floats: ratings, prices, vectors."""

import math

import numpy as np
from numpy.typing import NDArray

from millirec.data.compact.form import Form, bounded, within
from millirec.data.compact.packing import Ints, Reader, Writer, deflated, inflated

_LEVELS = 1 << 16  # distinct floats that a dictionary may hold


class Floats(Form, frozen=True, tag="floats"):
    """float32 bit for bit: a dictionary and codes where there are few distinct ones, else deflated where that pays."""

    shape: tuple[int, ...]
    size: int
    levels: int = 0
    codes: Ints | None = None

    @classmethod
    def of(cls, numbers: NDArray[np.float32], parts: Writer) -> "Floats":
        """float32 (rows,) or (rows, d)."""
        bits = np.ascontiguousarray(numbers, "<f4").view("<u4").reshape(-1)
        levels, codes = np.unique(bits, return_inverse=True)
        if len(levels) <= min(_LEVELS, len(bits) // 2):
            size = parts.add(deflated(levels.tobytes()), levels.nbytes)
            return cls(numbers.shape, size, len(levels), Ints.of(codes, parts))
        return cls(numbers.shape, parts.add(deflated(bits.tobytes()), bits.nbytes))

    def read(self, rows: int, parts: Reader) -> NDArray[np.float32]:
        """float32 of `rows` entries, numbers or vectors."""
        if not self.shape or self.shape[0] != rows or len(self.shape) > 2 or min(self.shape) < 0:
            raise ValueError(f"floats of shape {self.shape}, {rows} rows expected")
        count = math.prod(self.shape)
        if self.codes is None:
            bits = self._stored(count, parts)
        else:
            levels = self._stored(bounded(self.levels, _LEVELS), parts)
            bits = levels[within(self.codes.read(parts, count), self.levels)]
        return bits.view(np.float32).reshape(self.shape)

    def _stored(self, count: int, parts: Reader) -> NDArray[np.uint32]:
        data = inflated(parts.take(self.size, 4 * count), 4 * count)
        return np.frombuffer(data, "<u4").astype(np.uint32)
