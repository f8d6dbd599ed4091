"""What the commands that measure share: an artifact, where its data is, and how it ranks."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from millirec.cli.console import note
from millirec.data.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from millirec.data.catalog import Catalog
    from millirec.data.dataset import Dataset
    from millirec.data.sources import SourceConfig
    from millirec.data.split import SplitConfig, Targets
    from millirec.models.checkpoint import Provenance
    from millirec.train.evaluate import Ranks


@dataclass(frozen=True, slots=True)
class Artifact:
    """A checkpoint or a bundle: where it came from, and whether its lists may repeat seen items (sessions)."""

    path: Path
    bundled: bool
    provenance: "Provenance"
    catalog: "Catalog"
    repeats: bool

    @classmethod
    def open(cls, path: Path) -> "Artifact":
        """Raises ArtifactError when the folder holds neither, or a damaged one."""
        import msgspec

        from millirec.bundle import open_bundle
        from millirec.models.checkpoint import Checkpoint, Provenance

        bundled = (path / "manifest.json").exists()
        if bundled:
            bundle = open_bundle(path)
            manifest, catalog = bundle.manifest, bundle.catalog
            lineage = [step.settings for step in manifest.lineage]
            provenance = msgspec.convert(msgspec.to_builtins(manifest.provenance), Provenance)
        elif any((path / name).exists() for name in ("checkpoint.json", "ranker.json")):  # a ranker is refused by name
            checkpoint = Checkpoint.load(path)
            lineage, provenance = [step.settings for step in checkpoint.lineage], checkpoint.provenance
            catalog = checkpoint.catalog
        else:
            raise ArtifactError(f"{path}: neither a checkpoint nor a bundle", "give the folder that holds it")
        return cls(path, bundled, provenance, catalog, any(settings.get("repeats") is True for settings in lineage))

    def data(self, config: Path | None) -> "Dataset":
        """The data that it was trained on, split as then; read where `config` says, else where it was.

        Raises ArtifactError when it is not the same data, ConfigError when nobody says where it is.
        """
        from millirec.config import load

        return self.data_of(None if config is None else load(config).data)

    def data_of(self, source: "SourceConfig | None", split_config: "SplitConfig | None" = None) -> "Dataset":
        """`data`, read and split as these say; None = as when it was trained.

        Raises ArtifactError for another split too: its targets could be what the model has learned from.
        """
        from millirec.config import convert
        from millirec.data.extend import extended
        from millirec.data.sources import SourceConfig, read
        from millirec.data.split import SplitConfig, split
        from millirec.data.thin import ThinConfig, thin

        if source is None and not self.provenance.source:
            raise ConfigError("the artifact does not say where its data is", "give -c run.toml")
        dataset = read(source or convert(self.provenance.source, SourceConfig, "provenance.source"))
        if dataset.protocol == "none":
            own = split_config or convert(self.provenance.split, SplitConfig, "provenance.split")
            dataset = split(dataset, own)
        dataset = extended(dataset, self.catalog)  # a warm start keeps the rows of the older catalogue
        for what, found, wanted in (
            ("the data is", dataset.fingerprint, self.provenance.fingerprint),
            ("the split is", dataset.protocol, self.provenance.protocol),
        ):
            if found != wanted:
                raise ArtifactError(
                    f"{what} not what the model was trained on: its targets could leak",
                    "point to the same log, split alike, or train again on this one",
                )
        if self.provenance.thin:  # what trains the model further learns from no more than it did
            dataset, _ = thin(dataset, convert(self.provenance.thin, ThinConfig, "provenance.thin"))
        return dataset

    def rank(self, dataset: "Dataset", role: int, asked: "Targets") -> "tuple[Ranks, NDArray[np.int64]]":
        """The ranks of `asked`, the targets of a part, and the training events of each item row (n_items + 1,).

        A checkpoint ranks through its network, a bundle through the engine that serves it.
        """
        from millirec.models.checkpoint import Checkpoint
        from millirec.train.evaluate import rank_checkpoint

        if self.bundled:
            return self._replayed(dataset, role, asked)
        checkpoint = Checkpoint.load(self.path)
        return rank_checkpoint(checkpoint, dataset, asked, repeats=self.repeats), checkpoint.popularity

    def _replayed(self, dataset: "Dataset", role: int, asked: "Targets") -> "tuple[Ranks, NDArray[np.int64]]":
        import numpy as np

        from millirec.bundle import open_bundle
        from millirec.data.history import HistoryLimits
        from millirec.engine.engine import Engine
        from millirec.engine.state import StateStore, StoreSettings
        from millirec.frontier.replay import replay
        from millirec.train.evaluate import Ranks

        bundle = open_bundle(self.path)
        limits = HistoryLimits().covering(bundle.max_length)
        with StateStore.temporary(StoreSettings(limits=limits)) as store:
            seen = replay(Engine(bundle, store), dataset, role, repeats=self.repeats)
        note("engine: p50 {:.0f} us, p99 {:.0f} us an answer".format(*np.percentile(seen.microseconds, [50, 99])))
        users = dataset.sequences.users[asked.places]
        return Ranks(seen.ranks, seen.top, users, seen.n_repeats, seen.n_cold), bundle.popularity


def alike(artifacts: list[Artifact]) -> None:
    """Raises ArtifactError unless all were trained on the same data, split alike, and are asked the same targets."""
    first = artifacts[0]
    for other in artifacts[1:]:
        for what, own, theirs in (
            ("data", first.provenance.fingerprint, other.provenance.fingerprint),
            ("splits", first.provenance.protocol, other.provenance.protocol),
            ("targets (repeats of seen items)", first.repeats, other.repeats),
        ):
            if own != theirs:
                raise ArtifactError(
                    f"{first.path} and {other.path} cannot be compared: different {what}, {own} and {theirs}",
                    "train both on the same [data] and [split], with the same $.train.repeats",
                )
