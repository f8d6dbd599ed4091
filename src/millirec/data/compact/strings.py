"""Columns of strings: ids, values of features, texts."""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from millirec.data.compact.form import Form, parting, within
from millirec.data.compact.packing import Ints, Reader, Writer, deflated, inflated

_PREFIXES = 256  # distinct beginnings of numbered strings
_NUMBERED = re.compile(r"(.*?)(0|[1-9][0-9]{0,17})", re.DOTALL)


class Numbered(Form, frozen=True, tag="numbered"):
    """Strings that end in a number, such as "17" or "item-17": few distinct beginnings, and the numbers."""

    prefixes: tuple[str, ...]
    which: Ints
    numbers: Ints

    def read(self, count: int, parts: Reader) -> tuple[str, ...]:
        """`count` strings."""
        which = within(self.which.read(parts, count), len(self.prefixes))
        numbers = self.numbers.read(parts, count)
        if self.prefixes == ("",):
            return tuple(map(str, numbers.tolist()))
        return tuple([f"{self.prefixes[w]}{n}" for w, n in zip(which.tolist(), numbers.tolist(), strict=True)])


class Texts(Form, frozen=True, tag="texts"):
    """Strings one behind the other as UTF-8 of `encoded` bytes, deflated, and their lengths in characters."""

    lengths: Ints
    encoded: int
    size: int

    def read(self, count: int, parts: Reader) -> tuple[str, ...]:
        """`count` strings."""
        lengths = self.lengths.read(parts, count)
        text = inflated(parts.take(self.size, self.encoded), self.encoded).decode()
        stops = np.cumsum(parting(lengths, len(text))).tolist()
        return tuple([text[start:stop] for start, stop in pairwise([0, *stops])])


StringColumn = Numbered | Texts


def strings_of(strings: Sequence[str], parts: Writer) -> StringColumn:
    """Strings in the form that fits them."""
    found = [_NUMBERED.fullmatch(string) for string in strings]
    prefixes = dict.fromkeys(match[1] for match in found if match)
    if all(found) and len(prefixes) <= _PREFIXES:
        code = {prefix: i for i, prefix in enumerate(prefixes)}
        which = np.array([code[match[1]] for match in found if match], np.int64)
        numbers = np.array([int(match[2]) for match in found if match], np.int64)
        return Numbered(tuple(prefixes), Ints.of(which, parts), Ints.of(numbers, parts))
    lengths = Ints.of(np.array([len(string) for string in strings], np.int64), parts)
    data = "".join(strings).encode()
    return Texts(lengths, len(data), parts.add(deflated(data), len(data)))
