"""Refuses a second stage that cannot work, or whose figures would flatter, before anything is trained or written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from millirec.bundle.rank_packing import check_items
from millirec.cascade.cascade import CascadeConfig
from millirec.cascade.cascade import check_rankers as check_cascade
from millirec.compress.rankers.recipe import check as check_recipe
from millirec.data.dataset import Dataset
from millirec.data.errors import ArtifactError, ConfigError, MillirecError
from millirec.data.features import Keys
from millirec.data.labels import labels_of
from millirec.frontier.config import FrontierConfig, Variant, VariantRanker
from millirec.frontier.rankers import named
from millirec.models.rankers.checkpoint import RankerCheckpoint, is_ranker
from millirec.models.rankers.trees import TreesConfig
from millirec.train.candidates import candidates_of


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Errors begin with what they are about."""
    try:
        yield
    except MillirecError as error:
        raise type(error)(f"{where}: {error.problem}", error.mend) from error


def check_ranker(variant: Variant, config: FrontierConfig, dataset: Dataset) -> None:
    """Raises a MillirecError for a ranker that is not there, is of other data, cannot follow its steps, or would not be
    asked. `dataset` is the teacher's.
    """
    use, cascade = named(variant.ranker, config.ranker), (variant.pack or config.pack).cascade
    if use is None:
        if variant.ranker is True or variant.pack is not None:  # the frontier's cascade goes without, see `Maker`
            check_cascade(cascade, has_ranker=False, has_pre_ranker=False)
        return
    if use.checkpoint is None:
        raise ConfigError("names no checkpoint, and the frontier has no $.ranker", "give one of the two")
    if cascade != CascadeConfig() and cascade.ranker is None:
        raise ConfigError(
            "its cascade asks no ranker: the ranker would change nothing",
            'add { kind = "ranker" } to the scorers, or say ranker = false',
        )
    _check_pre_ranker(use, cascade)
    ranker = _loaded(use.checkpoint, config, dataset)
    _check_steps(use, ranker)
    if use.pre_ranker is not None:
        with naming("pre_ranker"):
            _loaded(use.pre_ranker, config, dataset)


def _check_pre_ranker(use: VariantRanker, cascade: CascadeConfig) -> None:
    if use.pre_ranker is None:
        check_cascade(cascade, has_ranker=True, has_pre_ranker=False)
    elif cascade != CascadeConfig() and cascade.pre_ranker is None:
        raise ConfigError(
            "its cascade asks no pre-ranker: pre_ranker would change nothing",
            'add { kind = "pre-ranker" } before the ranker, or leave pre_ranker out',
        )


def _loaded(where: str, config: FrontierConfig, dataset: Dataset) -> RankerCheckpoint:
    """A ranker that can be packed and measured with this data."""
    folder = Path(where)
    if not is_ranker(folder):
        raise ArtifactError(f"{folder} holds none", "give the checkpoint of a run with a [ranker]")
    ranker = RankerCheckpoint.load(folder)
    _check_data(ranker, dataset)
    _check_part(ranker, config)
    return ranker


def _check_data(ranker: RankerCheckpoint, dataset: Dataset) -> None:
    """What it has learned from must not be asked for, and what it reads must be there."""
    if not dataset.protocol.startswith("global-time"):
        raise ConfigError(
            f"under {dataset.protocol} its features would know what came after a question",
            'train teacher and ranker with [split] kind = "global-time"',
        )
    for what, found, wanted in (
        ("data", ranker.provenance.fingerprint, dataset.fingerprint),
        ("split", ranker.provenance.protocol, dataset.protocol),
    ):
        if found != wanted:
            raise ArtifactError(
                f"was trained with other {what} than the teacher: it could know what is asked",
                "train it on the teacher's [data] and [split]",
            )
    check_items(ranker.featuriser.items, dataset.items)
    Keys(dataset.users, dataset.items).check(ranker.featuriser.fields)
    labels_of(dataset, ranker.label)


def _check_part(ranker: RankerCheckpoint, config: FrontierConfig) -> None:
    if candidates_of(ranker) is None:
        return
    for asked, where in ((config.measure.part == "validation", "$.measure.part"), (config.search, "$.search")):
        if asked:
            raise ConfigError(
                f"{where} asks for the validation part, of whose candidates the ranker has learned",
                'measure part = "test" without a search, or train a ranker on the rows of the log',
            )


def _check_steps(use: VariantRanker, ranker: RankerCheckpoint) -> None:
    made = check_recipe(use.steps, ranker.config, ranker.featuriser.schema())
    if use.weights == "int8" and isinstance(made, TreesConfig):
        raise ConfigError('weights = "int8": trees have no layers to compute in it', "leave it out")
