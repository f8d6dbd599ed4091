"""Refuses a frontier that cannot work before anything is trained or written."""

from pathlib import Path

from millirec.bundle.counts import table_of
from millirec.compress.recipe import Recipe
from millirec.compress.recipe import check as check_recipe
from millirec.data.dataset import Dataset
from millirec.data.errors import ArtifactError, ConfigError
from millirec.frontier.beside import loaded_beside
from millirec.frontier.check_ranker import check_ranker, naming
from millirec.frontier.config import TEACHER, FrontierConfig, Variant, VariantRanker
from millirec.frontier.visit import check_cores
from millirec.models.base import NetworkConfig
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig


def check(config: FrontierConfig, model: ModelConfig, dataset: Dataset, *, repeats: bool) -> None:
    """Raises a MillirecError that names the variant: a step that cannot follow, a model that cannot be served, a
    checkpoint or a ranker of other data. `model` is the teacher's, which need not be trained yet.
    """
    check_cores(config.measure)
    _check_served("$.teacher", model)
    with naming("$.ranker"):
        check_ranker(Variant(name=TEACHER), config, dataset)
    for i, variant in enumerate(config.variants):
        with naming(f"$.variants[{i}] ({variant.name})"):
            check_variant(variant, config, model, dataset, repeats=repeats)


def check_variant(
    variant: Variant, config: FrontierConfig, model: ModelConfig, dataset: Dataset, *, repeats: bool
) -> None:
    """As `check`, of one variant."""
    if variant.checkpoint is not None:
        start = Checkpoint.load(Path(variant.checkpoint))
        _check_alike(start, dataset, repeats)
        model = start.config
    if variant.steps:
        model = check_recipe(Recipe(steps=variant.steps, name=variant.name), model, len(dataset.items))
    _check_served("the result", model)
    with naming("beside"):
        _check_beside(variant, config, dataset, repeats)
    with naming("ranker"):
        check_ranker(variant, config, dataset)


def _check_served(what: str, model: ModelConfig) -> None:
    if not isinstance(model, NetworkConfig):
        kind = model.__struct_config__.tag
        raise ConfigError(f"{what} is a {kind}, which has no user vectors to serve", "choose a sequence model")


def _check_beside(variant: Variant, config: FrontierConfig, dataset: Dataset, repeats: bool) -> None:
    if not variant.beside:
        return
    if isinstance(variant.ranker, VariantRanker) or (variant.ranker and config.ranker is not None):
        raise ConfigError("counts and a ranker: it has learned from scores without them", "set ranker = false")
    for other in loaded_beside(variant):
        _check_alike(other, dataset, repeats)
        table_of(other)


def _check_alike(start: Checkpoint, dataset: Dataset, repeats: bool) -> None:
    """Figures of models that learned from other data, another split or other targets cannot be paired."""
    own = any(step.settings.get("repeats") is True for step in start.lineage)
    for what, found, wanted in (
        ("data", start.provenance.fingerprint, dataset.fingerprint),
        ("split", start.provenance.protocol, dataset.protocol),
        ("items", start.catalog.vocabulary.ids, dataset.items.vocabulary.ids),
        ("targets (repeats of seen items)", own, repeats),
    ):
        if found != wanted:
            raise ArtifactError(
                f"checkpoint was trained with other {what} than the teacher",
                "train it on the teacher's data, split alike",
            )
