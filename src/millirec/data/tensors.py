"""Arrays in one file, each in the fewest bytes that give it back bit for bit.

Floats that are exact in 16 bits are kept so, whole numbers as narrow as they are, or as steps where they rise slowly;
arrays with many zeros as a bit for each place and the rest; then all are packed where that pays. Arrays of equal
numbers are kept once, whatever their shapes.
"""

import bz2
import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from millirec.data.errors import ArtifactError

Array = NDArray[Any]
_PAYS = 0.95  # deflated bytes for each byte; above, an array is left as it is
_LARGEST = 1 << 26  # bytes of an array that is deflated: larger ones are to be loaded fast
_SMALL = 1 << 20  # bytes of an array that may be packed by blocks, which takes ten times as long to read
_STEPS = "d1"
_HEADER, _DEFLATED = "millirec.tensors", "deflated"
_ENTRIES = "entries"  # key of the deflated list of arrays; theirs are numbers
_LONGEST = 1 << 26  # bytes of that list


class _Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How one array is kept: under which key, of which type and shape, in which form."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    width: str  # type of the kept numbers: "f2", "b2" = upper half of float32, "d1" = steps in a byte, or numpy's name
    mask: bool  # zeros are left out
    deflated: bool
    blocks: bool = False  # packed by bz2


class _Kept(NamedTuple):
    width: str
    mask: bool
    data: bytes


def save_tensors(arrays: Mapping[str, Array], path: Path) -> None:
    """Write arrays by name."""
    entries: dict[str, _Entry] = {}
    stored: dict[str, Array] = {}
    seen: dict[bytes, str] = {}
    for name, array in arrays.items():
        array = np.asarray(array, order="C")
        identity = hashlib.sha256(array.dtype.str.encode() + array.tobytes()).digest()
        if identity in seen:
            entries[name] = msgspec.structs.replace(entries[seen[identity]], shape=array.shape)
            continue
        seen[identity] = name
        kept = _smallest(array)
        data, deflated, blocks = _packed(kept.data)
        key = str(len(stored))
        stored[key] = np.frombuffer(data, np.uint8)
        entries[name] = _Entry(key, array.dtype.str, array.shape, kept.width, kept.mask, deflated, blocks)
    stored[_ENTRIES] = np.frombuffer(zlib.compress(msgspec.json.encode(entries), 9), np.uint8)
    save_file({key: array.copy() for key, array in stored.items()}, path, {_HEADER: _DEFLATED})


def load_tensors(path: Path) -> dict[str, Array]:
    """The arrays that `save_tensors` wrote; equal ones are one array, or views of one where their shapes differ.

    A plain safetensors file is read as well.

    Raises ArtifactError when the file is damaged.
    """
    try:
        with safe_open(path, "numpy") as file:
            header = (file.metadata() or {}).get(_HEADER)
            if header is None:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            entries = msgspec.json.decode(_list_of(file, header), type=dict[str, _Entry])
            found = {entry.key: _restored(entry, file.get_tensor(entry.key)) for entry in entries.values()}
        return {name: _shaped(found[entry.key], entry.shape) for name, entry in entries.items()}
    except (OSError, KeyError, ValueError, TypeError, zlib.error, SafetensorError, msgspec.MsgspecError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error})", "copy it again, or make it again") from error


def _list_of(file: Any, header: str) -> bytes:
    """The list of arrays as JSON; the first version of the format kept it in the header itself."""
    if header != _DEFLATED:
        return header.encode()
    inflater = zlib.decompressobj()
    told = inflater.decompress(file.get_tensor(_ENTRIES).tobytes(), _LONGEST)
    if inflater.unconsumed_tail:
        raise ValueError("the list of arrays is too long")
    return told


def _shaped(array: Array, shape: tuple[int, ...]) -> Array:
    return array if array.shape == shape else array.reshape(shape)


def _packed(data: bytes) -> tuple[bytes, bool, bool]:
    """The bytes as they are kept; whether they are deflated, or packed by blocks."""
    if len(data) > _LARGEST:
        return data, False, False
    deflated = zlib.compress(data, 9)
    if len(data) <= _SMALL and len(blocks := bz2.compress(data)) < _PAYS * min(len(deflated), len(data)):
        return blocks, False, True
    pays = len(deflated) < _PAYS * len(data)
    return (deflated if pays else data), pays, False


def _smallest(array: Array) -> _Kept:
    """The form with the fewest bytes."""
    width, numbers = _narrowed(array)
    nonzero = numbers != 0 if numbers.dtype.kind != "f" else numbers.view(f"u{numbers.itemsize}") != 0
    masked = (array.size + 7) // 8 + int(nonzero.sum()) * numbers.itemsize
    if masked < numbers.nbytes:
        return _Kept(width, True, np.packbits(nonzero).tobytes() + numbers[nonzero].tobytes())
    return _Kept(width, False, numbers.tobytes())


def _narrowed(array: Array) -> tuple[str, Array]:
    """Type name and numbers: half as wide where nothing is lost by it."""
    if array.dtype == np.float32 and array.size:
        with np.errstate(over="ignore", invalid="ignore"):
            half = array.astype(np.float16)
        bits = array.view(np.uint32)
        if np.array_equal(half.astype(np.float32).view(np.uint32), bits):
            return "f2", half
        if not (bits & 0xFFFF).any():
            return "b2", (bits >> 16).astype(np.uint16)
    if array.dtype.kind in "iu" and array.size:
        return _narrow_integers(array)
    return array.dtype.str, array


def _narrow_integers(array: Array) -> tuple[str, Array]:
    flat = array.ravel()
    if array.dtype.itemsize > 1 and 0 <= flat[0] <= 255 and (flat[1:] >= flat[:-1]).all():
        steps = np.diff(flat, prepend=flat.dtype.type(0))
        if steps.max() <= 255:
            return _STEPS, steps.astype(np.uint8)
    least = np.min_scalar_type(flat.max()) if flat.min() >= 0 else np.result_type(*map(np.min_scalar_type, _ends(flat)))
    if least.itemsize < array.dtype.itemsize:
        return least.str, array.astype(least)
    return array.dtype.str, array


def _ends(flat: Array) -> tuple[Any, Any]:
    return flat.min(), flat.max()


def _restored(entry: _Entry, raw: Array) -> Array:
    kind = np.dtype({"f2": "<f2", "b2": "<u2", _STEPS: "<u1"}.get(entry.width, entry.width))
    size = int(np.prod(entry.shape, dtype=np.int64))
    data = _unpacked(entry, raw, (size + 7) // 8 + size * kind.itemsize)
    if entry.mask:
        places = (size + 7) // 8
        if places > len(data):
            raise ValueError("an array is shorter than its shape")
        nonzero = np.unpackbits(np.frombuffer(data[:places], np.uint8), count=size).astype(np.bool_)
        numbers = np.zeros(size, kind)
        numbers[nonzero] = np.frombuffer(data[places:], kind)
    else:
        numbers = np.frombuffer(data, kind, count=size).copy()
    if entry.width == "b2":
        numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
    if entry.width == _STEPS:
        numbers = numbers.cumsum(dtype=np.dtype(entry.dtype))
    return numbers.astype(np.dtype(entry.dtype), copy=False).reshape(entry.shape)


def _unpacked(entry: _Entry, raw: Array, most: int) -> bytes:
    """No more than a whole array could need, whatever the file says."""
    if not (entry.deflated or entry.blocks):
        return raw.tobytes()
    if entry.blocks:
        blocks = bz2.BZ2Decompressor()
        data = blocks.decompress(raw.tobytes(), most + 1)
        longer = len(data) > most
    else:
        inflater = zlib.decompressobj()
        data = inflater.decompress(raw.tobytes(), most)
        longer = bool(inflater.unconsumed_tail)
    if longer:
        raise ValueError("an array is longer than its shape")
    return data
