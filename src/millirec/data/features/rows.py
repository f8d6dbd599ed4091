"""From a log to the rows that a ranker learns from: labels, a split, and features as they were known then."""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.dataset import CONTEXT, TEST, TRAIN, VALIDATION, Dataset
from millirec.data.errors import ConfigError, DataError
from millirec.data.features.config import FieldConfig
from millirec.data.features.facts import Facts, Needs
from millirec.data.features.featuriser import Featuriser
from millirec.data.features.keys import Keys
from millirec.data.features.replay import Events, Questions, replayed
from millirec.data.features.schema import Features
from millirec.data.labels import POSITIVE, UNLABELLED
from millirec.data.split import GlobalTime, split


class RandomRows(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="random-rows"
):
    """Labelled rows are dealt out at random: what most papers on click-through rates do.

    It flatters: models learn from rows that are newer than those they are asked for. Here features at least know
    training and unlabelled events only, and older ones only.
    """

    validation: float = 0.1
    test: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.validation < 1 and 0 < self.test < 1 and self.validation + self.test < 1):
            raise ConfigError(
                "$.split: `validation` and `test` must be shares above 0 that leave rows to train on",
                "for example validation = 0.1, test = 0.1",
            )
        if self.seed < 0:
            raise ConfigError(f"$.split.seed = {self.seed}", "choose 0 or more")


RowSplit = RandomRows | GlobalTime


def split_rows(dataset: Dataset, labels: NDArray[np.int8], config: RowSplit) -> Dataset:
    """The data set with a role for every event; unlabelled ones are CONTEXT.

    Raises DataError when it is split already, or when a part has not both labels.
    """
    if isinstance(config, GlobalTime):
        dataset = split(dataset, config)
        roles, protocol = dataset.roles.copy(), dataset.protocol
    else:
        if dataset.protocol != "none":
            raise DataError(f"{dataset.name}: split already ({dataset.protocol})", "use a log that is not")
        roles = _dealt(labels, config)
        protocol = f"random-rows (validation={config.validation:g}, test={config.test:g}, seed={config.seed})"
    roles[labels == UNLABELLED] = CONTEXT
    for role, part in ((TRAIN, "training"), (VALIDATION, "validation"), (TEST, "test")):
        if len(np.unique(labels[roles == role])) < 2:
            raise DataError(f"the {part} part has not both successes and failures", "use more rows, or another split")
    return dataset.with_roles(roles, protocol)


def _dealt(labels: NDArray[np.int8], config: RandomRows) -> NDArray[np.uint8]:
    rows = np.flatnonzero(labels != UNLABELLED)
    rows = np.random.default_rng(config.seed).permutation(rows)
    n_test, n_validation = round(len(rows) * config.test), round(len(rows) * config.validation)
    roles = np.full(len(labels), TRAIN, np.uint8)
    roles[rows[:n_test]] = TEST
    roles[rows[n_test : n_test + n_validation]] = VALIDATION
    return roles


@dataclass(frozen=True)
class RankingRows:
    """The labelled rows of a split log, in its order.

    `places` int64 (n,): where each stands in the log. `labels` int8 (n,): 1 or 0. `roles` uint8 and `users` int32 (n,).
    """

    features: Features
    labels: NDArray[np.int8]
    roles: NDArray[np.uint8]
    users: NDArray[np.int32]
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, role: int) -> NDArray[np.int64]:
        """The places, among these rows, of those with a role."""
        return np.flatnonzero(self.roles == role).astype(np.int64)


def ranking_rows(
    dataset: Dataset, labels: NDArray[np.int8], fields: Iterable[FieldConfig] | Featuriser
) -> tuple[RankingRows, Featuriser]:
    """The rows of a data set that `split_rows` has split; features are learned from the training part, or given.

    Under a split by time, every event that is older than a row is known to it, as it is to a server.
    """
    given = fields if isinstance(fields, Featuriser) else None
    fields = given.fields if given else tuple(fields)  # type: ignore[arg-type]
    Keys(dataset.users, dataset.items).check(fields)
    places = np.flatnonzero(labels != UNLABELLED).astype(np.int64)
    facts = facts_of(dataset, labels, places, Needs.of(fields))
    roles, own = dataset.roles[places], labels[places]
    train = roles == TRAIN
    featuriser = given or Featuriser.fit(
        fields, facts.take(train), own[train] == POSITIVE, dataset.users, dataset.items
    )
    rows = RankingRows(featuriser.features(facts), own, roles, dataset.interactions.users[places], places)
    return rows, featuriser


def facts_of(dataset: Dataset, labels: NDArray[np.int8], places: NDArray[np.int64], needs: Needs) -> Facts:
    """What was known when the events at these places of the log came."""
    log = dataset.interactions
    users, items = log.users.astype(np.int64), log.items.astype(np.int64)
    events = Events(users, items, log.times, labels).take(_known(dataset))
    asked = Questions(users[places], items[places], log.times[places], {})
    return replayed(events, asked, needs, Keys(dataset.users, dataset.items))


def known_events(dataset: Dataset, labels: NDArray[np.int8], *, test: bool = False) -> Events:
    """What a server that goes on from this log knows: all events that are older than the test part.

    With `test` those of the test part too.
    """
    log = dataset.interactions
    events = Events(log.users.astype(np.int64), log.items.astype(np.int64), log.times, labels)
    if test:
        return events
    held = dataset.roles == TEST
    known = _known(dataset) & ~held
    if dataset.protocol.startswith("global-time") and held.any():
        known &= log.times < log.times[held].min()
    return events.take(known)


def _known(dataset: Dataset) -> NDArray[np.bool_]:
    """The events that features may know: all of them under a split by time, else those that are not held out."""
    if dataset.protocol.startswith("global-time"):
        return np.ones(len(dataset.roles), np.bool_)
    known: NDArray[np.bool_] = (dataset.roles == TRAIN) | (dataset.roles == CONTEXT)
    return known
