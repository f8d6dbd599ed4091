"""What was counted stands beside a network in its bundle: the tables, and how much each adds to a score."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.tensors import Array
from millirec.models.counts import CountTable, Gain, VoteTable
from millirec.models.session_table import SessionTable

if TYPE_CHECKING:
    from millirec.models.checkpoint import Checkpoint

_MOST = 4


class CountsEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table in a manifest. `model`: the config of the baseline that counted. `length`: how many of the newest
    items of a history vote. `gain`: what votes add to a score.
    """

    model: dict[str, Any]
    length: int
    gain: Gain


class Beside(NamedTuple):
    """A baseline that is packed beside a network: Markov, ItemKNN or VMIS-kNN."""

    checkpoint: "Checkpoint"
    gain: Gain

    @property
    def table(self) -> VoteTable:
        """Raises ConfigError for a model that has no votes of its own."""
        return table_of(self.checkpoint)


def table_of(checkpoint: "Checkpoint") -> VoteTable:
    """The counts of a baseline. Raises ConfigError for a model that has none."""
    from millirec.models.base import Counted

    network = checkpoint.network()
    if not isinstance(network, Counted):
        kind = msgspec.to_builtins(checkpoint.config)["kind"]
        raise ConfigError(
            f'$.model.kind = "{kind}" has no votes of its own',
            "put markov, item-knn or vmis-knn beside it",
        )
    return network.count_table()


def check_beside(network: "Checkpoint", others: Sequence["Checkpoint"]) -> None:
    """Raises ConfigError for too many, ArtifactError for counts of other items or other data than the network's."""
    if len(others) > _MOST:
        raise ConfigError(f"{len(others)} models beside a network", f"give {_MOST} at most")
    for number, other in enumerate(others, 1):
        if other.catalog.vocabulary.ids != network.catalog.vocabulary.ids:
            raise ArtifactError(f"number {number} beside the network knows other items", "train both on the same data")
        same = other.provenance.fingerprint, other.provenance.protocol
        if same != (network.provenance.fingerprint, network.provenance.protocol):
            raise ArtifactError(
                f"number {number} beside the network has learned from other data, or of another split",
                "train both on the same data, split alike",
            )


def counts_arrays(beside: Sequence[Beside]) -> tuple[dict[str, Array], tuple[CountsEntry, ...]]:
    """The arrays of the tables, as a bundle names them, and what the manifest says of them."""
    arrays: dict[str, Array] = {}
    entries = []
    for place, one in enumerate(beside):
        table = one.table
        arrays |= {f"counts/{place}/{name}": array for name, array in table.arrays().items()}
        model = msgspec.to_builtins(one.checkpoint.config)
        entries.append(CountsEntry(model=model, length=table.length, gain=one.gain))
    return arrays, tuple(entries)


def read_counts(
    entries: Sequence[CountsEntry], tensors: Mapping[str, Array], n_items: int
) -> tuple[tuple[VoteTable, Gain], ...]:
    """The tables and gains of a bundle. Raises ArtifactError where they do not fit it."""
    out = []
    for place, entry in enumerate(entries):
        prefix = f"counts/{place}/"
        arrays = {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
        table = _read(arrays, entry)
        if table.n_rows != n_items + 1:
            raise ArtifactError(f"counts of {table.n_rows - 1:,} items, not {n_items:,}", "pack again")
        out.append((table, entry.gain))
    return tuple(out)


def _read(arrays: Mapping[str, Array], entry: CountsEntry) -> VoteTable:
    if entry.model.get("kind") == "vmis-knn":
        return SessionTable.read(arrays, entry.model)
    return CountTable.read(arrays, entry.length)
