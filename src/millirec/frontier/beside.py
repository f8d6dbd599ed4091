"""Baselines that are counted beside a network, with gains that suit its validation part."""

from collections.abc import Sequence
from pathlib import Path

from millirec.bundle.counts import Beside, check_beside, table_of
from millirec.bundle.packing import network_of
from millirec.data.dataset import Dataset
from millirec.frontier.config import Variant
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import max_length
from millirec.train.gains import Fitted, fitted_gains


def fitted_beside(
    network: Checkpoint, others: Sequence[Checkpoint], dataset: Dataset, *, repeats: bool
) -> tuple[list[Beside], Fitted]:
    """`others` with their gains beside a network that has learned from `dataset`, without those that add nothing.

    Raises ConfigError for a network without user vectors and for others that do not count what goes with an item,
    ArtifactError for counts of other data.
    """
    check_beside(network, others)
    tables = [table_of(other) for other in others]
    found = fitted_gains(network_of(network), max_length(network.config), tables, dataset, repeats=repeats)
    pairs = zip(others, found.gains, strict=True)
    return [Beside(other, gain) for other, gain in pairs if gain is not None], found


def loaded_beside(variant: Variant) -> list[Checkpoint]:
    """The baselines that are counted beside a variant. Raises ArtifactError when one is not there."""
    return [Checkpoint.load(Path(folder)) for folder in variant.beside]
