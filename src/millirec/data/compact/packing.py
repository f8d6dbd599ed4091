"""Whole numbers in few bits: `Ints.of(numbers, parts)` writes them, `ints.read(parts, count)` gives them back.

A number (less the least of its column, or less the one before it, and divided by what all have in common) is cut in two
as a floating-point number is: a symbol of one byte tells its length and its three leading bits, the rest has as many
bits as are left. Symbols are deflated (RFC 1951: Huffman codes, and repetitions told once); rests lie one behind the
other in bits. So each number has the width that fits it, a skewed column comes near its entropy, and both ways are
array operations: no loop over numbers.
"""

import zlib
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
_Words = NDArray[np.uint64]
_Bytes = NDArray[np.uint8]

_SYMBOLS = 252
_CODES = np.arange(_SYMBOLS, dtype=np.uint64)
_WIDTHS: _Bytes = (np.maximum(_CODES // 4, 1) - 1).astype(np.uint8)
"""Bits of the rest that follows each symbol."""
_TOPS: _Words = np.left_shift(np.where(_CODES < 4, _CODES, 4 + _CODES % 4), _WIDTHS, dtype=np.uint64)
"""What each symbol stands for when its rest is 0."""
_HALF = 32  # rests above this width are kept as their lower half and what is above it
_MASKS: _Words = (np.uint64(1) << np.arange(_HALF + 1, dtype=np.uint64)) - np.uint64(1)
_PAD = 8  # bytes behind the rests, so that the last ones can be read as a word
_CHUNK = 1 << 15  # numbers that are worked on at once, so that they stay in the cache
MOST = 16
"""Numbers or bytes for each byte of a file, at most."""


class Writer:
    """Parts of a file, one behind the other, and how many numbers and bytes they stand for."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.meaning = 0

    @property
    def size(self) -> int:
        """Bytes so far."""
        return sum(map(len, self.parts))

    def add(self, data: bytes, meaning: int = 0) -> int:
        """Append a part that stands for `meaning` numbers or bytes; its size in bytes."""
        self.parts.append(data)
        self.meaning += meaning
        return len(data)

    def join(self, other: "Writer") -> None:
        """Append all parts of another."""
        self.parts += other.parts
        self.meaning += other.meaning

    def data(self) -> bytes:
        """The file. It ends in zeros where it would be shorter than readers believe."""
        return b"".join(self.parts).ljust(-(-self.meaning // MOST), b"\0")


class Reader:
    """The parts of a file in the order in which they were added.

    A small file cannot ask for much memory: each of its bytes stands for `MOST` numbers or bytes at the most.
    """

    def __init__(self, data: _Bytes) -> None:
        self._data, self._at = data, 0
        self._left = MOST * len(data)

    def take(self, size: int, meaning: int = 0) -> _Bytes:
        """The next `size` bytes, which stand for `meaning`. Raises ValueError when there are not so many."""
        if not 0 <= size <= len(self._data) - self._at:
            raise ValueError(f"a part of {size} bytes, {len(self._data) - self._at} left")
        self._left -= meaning
        if meaning < 0 or self._left < 0:
            raise ValueError(f"{meaning} entries in a file of {len(self._data)} bytes")
        self._at += size
        return self._data[self._at - size : self._at]


def deflated(data: bytes) -> bytes:
    """Raw deflate, the smaller of two strategies."""
    found = []
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY):
        deflater = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
        found.append(deflater.compress(data) + deflater.flush())
    return min(found, key=len)


def inflated(data: _Bytes, size: int) -> bytes:
    """The inverse, of which `size` bytes are expected and no more are made. Raises ValueError for another size."""
    inflater = zlib.decompressobj(-15)
    try:
        found = inflater.decompress(data.data, size) if size else b""
        over = inflater.decompress(inflater.unconsumed_tail, 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(found) != size or over:
        raise ValueError(f"{len(found)} bytes, {size} expected")
    return found


class Ints(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How `count` numbers are kept.

    `form`: the number itself; its difference from the one before; or that difference with the sign in the lowest bit.
    What is kept is (number - `least`) / `step`. `first` is what the first difference is added to. `symbols` and `rests`
    are the sizes of the two parts in bytes.
    """

    count: int
    form: Literal["plain", "delta", "zigzag"]
    first: int
    least: int
    step: int
    symbols: int
    rests: int

    @classmethod
    def of(cls, numbers: NDArray[Any], parts: Writer) -> "Ints":
        """Write int64 numbers of any range, shape (n,), in the form that needs the fewest bytes."""
        numbers = numbers.astype(np.int64)
        if not len(numbers):
            return cls(0, "plain", 0, 0, 1, 0, 0)
        kept = min((_plain(numbers), *_differences(numbers)), key=_size)
        symbols, rests = deflated(kept.symbols.tobytes()), _rests(kept.words, kept.symbols)
        sizes = parts.add(symbols, len(numbers)), parts.add(rests)
        return cls(len(numbers), kept.form, kept.first, kept.least, kept.step, *sizes)

    def read(self, parts: Reader, count: int) -> Numbers:
        """The numbers, int64 (count,). Raises ValueError when the parts do not hold so many."""
        if self.count != count:
            raise ValueError(f"{self.count} numbers, {count} expected")
        n = count - (self.form != "plain" and count > 0)
        symbols = np.frombuffer(inflated(parts.take(self.symbols, count), n), np.uint8)
        words = _numbers(symbols, parts.take(self.rests))
        if self.form == "zigzag":
            words = (words >> np.uint64(1)) ^ (np.uint64(0) - (words & np.uint64(1)))
        words *= _word(self.step)
        words += _word(self.least)
        if self.form == "plain":
            return words.view(np.int64)
        out = np.empty(count, np.uint64)
        out[:1] = _word(self.first)
        np.cumsum(words, out=out[1:])
        out[1:] += _word(self.first)
        return out.view(np.int64)


class _Kept(NamedTuple):
    form: Literal["plain", "delta", "zigzag"]
    first: int
    least: int
    step: int
    words: _Words
    symbols: _Bytes


def _word(number: int) -> _Words:
    """A number as one word, negative ones as their two's complement. Shape (1,): arrays wrap, scalars warn."""
    return np.array([number % 2**64], np.uint64)


def _plain(numbers: Numbers) -> _Kept:
    least = int(numbers.min())
    words = numbers.view(np.uint64) - _word(least)
    step = _common(words)
    words //= np.uint64(step)
    return _Kept("plain", 0, least, step, words, _symbols(words))


def _differences(numbers: Numbers) -> tuple[_Kept, _Kept]:
    """Both forms of differences; they wrap around where they overflow, and so does their sum."""
    gaps = np.diff(numbers.view(np.uint64)).view(np.int64)
    first, least = int(numbers[0]), int(gaps.min()) if len(gaps) else 0
    words = gaps.view(np.uint64) - _word(least)
    step = _common(words)
    words //= np.uint64(step)
    delta = _Kept("delta", first, least, step, words, _symbols(words))
    step = _common(np.where(gaps < 0, -gaps, gaps).view(np.uint64))
    step = step if step < 2**63 else 1
    gaps = gaps // step
    words = ((gaps << 1) ^ (gaps >> 63)).view(np.uint64)
    return delta, _Kept("zigzag", first, 0, step, words, _symbols(words))


def _common(words: _Words) -> int:
    """The greatest number that divides all; 1 when there is nothing to divide."""
    found = np.gcd.reduce(words[:1000], initial=0)
    return max(int(np.gcd.reduce(words, initial=0)), 1) if found != 1 else 1


def _size(kept: _Kept) -> float:
    """About how many bits these numbers take: their rests, and the entropy of the symbols."""
    counts = np.bincount(kept.symbols, minlength=_SYMBOLS)
    some = counts[counts > 0]
    return float(counts @ _WIDTHS + (some * np.log2(len(kept.symbols) / some)).sum())


def _symbols(words: _Words) -> _Bytes:
    upper = words >> np.uint64(32)
    high = upper > 0
    # Halves are exact as floating-point numbers, so the exponent is the length in bits.
    lengths = np.frexp(np.where(high, upper, words).astype(np.float64))[1] + np.where(high, 32, 0)
    shifts = np.maximum(lengths - 3, 0)
    tops = (words >> shifts.astype(np.uint64)).astype(np.int64) & 3
    return np.where(lengths < 3, words, 4 * (shifts + 1) + tops).astype(np.uint8)


def _rests(words: _Words, symbols: _Bytes) -> bytes:
    """Rests up to 32 bits wide, then, for wider ones, what is above."""
    widths = _WIDTHS[symbols]
    low, high = np.minimum(widths, _HALF), np.maximum(widths, _HALF) - _HALF
    return _packed(words, low) + (_packed(words >> np.uint64(_HALF), high) if high.any() else b"")


def _packed(numbers: _Words, widths: _Bytes) -> bytes:
    """The lower `widths` bits of each, lowest first, without gaps."""
    if not widths.any():
        return b""
    bits = []
    for at in range(0, len(numbers), _CHUNK):
        words = numbers[at : at + _CHUNK].astype("<u4").view(np.uint8).reshape(-1, 4)
        kept = np.arange(_HALF) < widths[at : at + _CHUNK, None]
        bits.append(np.unpackbits(words, axis=1, bitorder="little")[kept])
    return np.packbits(np.concatenate(bits), bitorder="little").tobytes() + bytes(_PAD)


def _numbers(symbols: _Bytes, rests: _Bytes) -> _Words:
    """Numbers from symbols and rests. Raises ValueError when they do not fit each other."""
    widths = _WIDTHS.take(symbols)
    words = _TOPS.take(symbols)
    at = _unpack(rests, np.minimum(widths, _HALF), words)
    if widths.max(initial=0) > _HALF:
        high = np.zeros_like(words)
        at += _unpack(rests[at:], np.maximum(widths, _HALF) - _HALF, high)
        words |= high << np.uint64(_HALF)
    if at != len(rests):
        raise ValueError(f"{len(rests)} bytes of rests, {at} expected")
    return words


def _unpack(data: _Bytes, widths: _Bytes, words: _Words) -> int:
    """Put numbers of `widths` bits into the lower bits of `words`; how many bytes they took."""
    ends = np.cumsum(widths, dtype=np.int64)
    size = (int(ends[-1]) + 7) // 8 + _PAD if len(ends) and ends[-1] else 0
    if size > len(data):
        raise ValueError("rests break off")
    for at in range(0, len(words) if size else 0, _CHUNK):
        wide = widths[at : at + _CHUNK]
        begins = ends[at : at + _CHUNK] - wide
        byte = int(begins[0] >> 3)
        windows = np.ndarray((int(begins[-1] >> 3) - byte + 1,), "<u8", data, byte, (1,))  # a word at every byte
        found = windows.take((begins >> 3) - byte)
        found >>= (begins & 7).view(np.uint64)
        found &= _MASKS.take(wide)
        words[at : at + _CHUNK] |= found
    return size
