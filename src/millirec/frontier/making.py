"""`Made`: a variant as a packed bundle, and what was learned on the way. `make` applies the recipe and packs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from millirec import __version__
from millirec.bundle import Beside, Bundle, PackConfig, open_bundle, pack
from millirec.bundle.counts import CountsEntry
from millirec.compress.recipe import Recipe, compress
from millirec.compress.workshop import Workshop
from millirec.data.errors import ArtifactError
from millirec.data.lineage import Step
from millirec.frontier.beside import fitted_beside, loaded_beside
from millirec.frontier.cache import Cache, key_of
from millirec.frontier.config import Variant
from millirec.frontier.kernels import kernels
from millirec.frontier.rankers import MadeRanker, Rankers, described, zeros_among
from millirec.models.checkpoint import Checkpoint


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A packed variant.

    `folder`: the bundle's name on the cache's shelf. `bytes`: of all its files. `training_seconds`: what its lineage
    cost before the recipe, `compression_seconds`: the recipe, both with those of its ranker. `zeros`: share of the
    floating-point parameters that are 0, `parameters`: how many numbers there are. `kernels`: nodes of its graphs by
    operator. `ranker`: its second stage, of which the figures before do not tell. `counts`: what was counted beside it.
    """

    folder: str
    content_hash: str
    bytes: int
    model: dict[str, Any]
    lineage: tuple[Step, ...]
    training_seconds: float
    compression_seconds: float
    zeros: float
    parameters: int
    kernels: dict[str, int]
    ranker: MadeRanker | None = None
    counts: tuple[CountsEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes variants in one workshop and keeps them in one cache. `pack`: how those are packed that do not say."""

    workshop: Workshop
    cache: Cache
    pack: PackConfig
    rankers: Rankers

    def make(self, variant: Variant, start: Checkpoint) -> Made:
        """The packed variant, made now or taken from the cache.

        Raises ConfigError when a step cannot follow or the model has no user vectors, ArtifactError when it cannot
        be packed as it should.
        """
        key = self.key(variant, start)
        made = self.cache.kept(Made, "made", key, lambda: self._made(variant, start, key))
        if not self.bundle_folder(made).is_dir():
            made = self._made(variant, start, key)
        return made

    def has(self, variant: Variant, start: Checkpoint) -> bool:
        """Whether `make` has nothing to do."""
        return self.cache.has("made", self.key(variant, start))

    def key(self, variant: Variant, start: Checkpoint) -> str:
        """The hash of all that decides the bundle."""
        about = (start.content_hash, start.lineage, start.provenance, variant.steps, self._pack_of(variant))
        dataset, machine = self.workshop.dataset, self.workshop.machine
        data = (dataset.split_fingerprint, self.workshop.repeats, machine.seed) if variant.steps else ()
        beside = [other.content_hash for other in loaded_beside(variant)]
        fitted = (beside, dataset.split_fingerprint, self.workshop.repeats) if beside else ()
        return key_of(about, data, __version__, *fitted, *self.rankers.key(variant))

    def bundle_folder(self, made: Made) -> Path:
        """Where the bundle lies."""
        return self.cache.place("bundles", made.folder)

    def bundle(self, made: Made) -> Bundle:
        """The bundle, verified. Raises ArtifactError when it was changed since it was packed."""
        bundle = open_bundle(self.bundle_folder(made))
        if bundle.manifest.content_hash != made.content_hash:
            raise ArtifactError(f"{bundle.folder}: is not the bundle that was made", "delete the frontier's cache")
        return bundle

    def _made(self, variant: Variant, start: Checkpoint, key: str) -> Made:
        checkpoint = start
        if variant.steps:
            checkpoint = compress(start, Recipe(steps=variant.steps, name=variant.name), self.workshop)
        part, took = self.rankers.make(variant) or (None, 0.0)
        place, others = self.cache.place("bundles", key), loaded_beside(variant)
        beside = self._beside(checkpoint, others) if others else []
        bundle = pack(checkpoint, place, self._pack_of(variant), part, beside)
        seconds, own = _seconds(checkpoint.lineage), _seconds(checkpoint.lineage[len(start.lineage) :])
        before = 0.0 if part is None else _seconds(part.checkpoint.lineage) - took
        zeros, parameters = zeros_among(checkpoint.parameters.values())
        return Made(
            folder=key,
            content_hash=bundle.manifest.content_hash,
            bytes=sum(path.stat().st_size for path in bundle.folder.iterdir()),
            model=msgspec.to_builtins(checkpoint.config),
            lineage=checkpoint.lineage,
            training_seconds=round(seconds - own + before, 2),
            compression_seconds=round(own + took, 6),
            zeros=zeros,
            parameters=parameters,
            kernels=kernels((bundle.encoder, bundle.step)),
            ranker=None if part is None else described(part, bundle),
            counts=tuple(bundle.manifest.counts),
        )

    def _beside(self, network: Checkpoint, others: Sequence[Checkpoint]) -> list[Beside]:
        return fitted_beside(network, others, self.workshop.dataset_of(network), repeats=self.workshop.repeats)[0]

    def _pack_of(self, variant: Variant) -> PackConfig:
        """The frontier's own settings may name a ranker that this variant does not have."""
        if variant.pack is not None:
            return variant.pack
        return self.pack if self.rankers.has(variant) else self.pack.unranked()


def _seconds(steps: Sequence[Step]) -> float:
    return sum(step.seconds for step in steps)
