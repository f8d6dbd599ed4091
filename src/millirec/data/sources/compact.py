"""A log that `millirec data compress` wrote."""

from pathlib import Path

from millirec.data.compact import load_compact
from millirec.data.dataset import Dataset
from millirec.data.filters import Filters


class CompactConfig(Filters, frozen=True, kw_only=True, tag="compact"):
    """`path`: the folder. Features, and a test part that the log came with, are in it."""

    path: str


def read_compact(config: CompactConfig) -> Dataset:
    """Events in the order of the log from which it was made."""
    return load_compact(Path(config.path))
