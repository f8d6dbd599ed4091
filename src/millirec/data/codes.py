"""Numbers of few bits in bytes, and hashes of rows: what graphs and indexes must agree on."""

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
PRIME = 2_147_483_647  # 2 ** 31 - 1


def pack(numbers: Bytes, bits: int) -> Bytes:
    """Bytes (..., m * bits / 8) from numbers (..., m) below 2 ** bits, lower bits first; m * bits must fill them."""
    if bits == 8:
        return numbers
    groups = numbers.reshape(*numbers.shape[:-1], numbers.shape[-1] * bits // 8, 8 // bits)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    packed: Bytes = np.bitwise_or.reduce(groups << shifts, axis=-1).astype(np.uint8)
    return packed


def unpack(codes: Bytes, bits: int) -> Bytes:
    """The inverse of `pack`."""
    if bits == 8:
        return codes
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers: Bytes = (codes[..., None] >> shifts) & np.uint8(2**bits - 1)
    return numbers.reshape(*codes.shape[:-1], codes.shape[-1] * 8 // bits)


def middle(bits: int) -> float:
    """What is taken from a code of `bits` bits so that levels lie evenly about 0."""
    return float(2**bits - 1) / 2


def factors(hashes: int) -> list[int]:
    """Multipliers below 2 ** 31, one for each hash function: (row * factor + factor // 3) % PRIME % buckets."""
    return [int(number) for number in np.random.default_rng(0x6D696C6C).integers(1 << 16, PRIME, hashes)]
