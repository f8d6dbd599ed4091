"""What each feature adds to a ranker: how much worse it answers when the feature's values are dealt out at random.

Permutation importance: Breiman, "Random Forests", Machine Learning 2001; Fisher, Rudin and Dominici, JMLR 2019.
"""

from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.dataset import VALIDATION
from millirec.data.errors import DataError
from millirec.data.features import Features, RankingRows, Schema
from millirec.metrics import ctr
from millirec.metrics.bootstrap import Difference, paired_difference
from millirec.metrics.ctr_summary import losses
from millirec.metrics.summary import Figure
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.models.rankers.trees import Trees
from millirec.train.machine import generator

_DEALT = 31  # a stream of random numbers


class Worth(msgspec.Struct, frozen=True, kw_only=True):
    """What one feature adds.

    `auc`: what is lost of it when the feature is permuted, the mean over the repeats. `log_loss`: what is lost there (a
    loss that rises), with the 95 % interval over users. `share`: of the sum over all features. `gain`: of trees, the
    share of the feature's splits in what all splits made the training loss smaller. `useless`: the loss rises by no
    more than the threshold.
    """

    name: str
    auc: float
    log_loss: Figure
    p_value: float
    share: float
    gain: float | None = None
    useless: bool = False


class FeatureReport(msgspec.Struct, frozen=True, kw_only=True):
    """All features, the one that adds most first; `auc` and `log_loss` of the ranker as it is."""

    n_rows: int
    repeats: int
    threshold: float
    auc: float
    log_loss: float
    features: tuple[Worth, ...]

    @property
    def useful(self) -> tuple[str, ...]:
        """The names of the features that are not useless."""
        return tuple(worth.name for worth in self.features if not worth.useless)


def feature_report(
    checkpoint: RankerCheckpoint,
    rows: RankingRows,
    role: int = VALIDATION,
    *,
    repeats: int = 3,
    threshold: float = 0.0,
    seed: int = 0,
) -> FeatureReport:
    """Measure every feature on a part of the rows. A sequence is permuted without its categorical feature.

    Features that say the same hide each other: each alone can be done without, both together perhaps not. Raises
    DataError for a part without rows.
    """
    part = rows.part(role)
    if not len(part):
        raise DataError("no rows in this part", "measure another part")
    asked = _Asked(checkpoint, rows, part)
    orders = [generator(seed, _DEALT, repeat).permutation(len(part)) for repeat in range(repeats)]
    found = {field.name: asked.without(field.name, orders) for field in checkpoint.featuriser.fields}
    whole = sum(max(lost.mean, 0.0) for _, lost in found.values()) or 1.0
    gains = gains_of(checkpoint)
    worths = [
        Worth(
            name=name,
            auc=auc,
            log_loss=Figure(lost.mean, lost.low, lost.high),
            p_value=lost.p_value,
            share=max(lost.mean, 0.0) / whole,
            gain=gains.get(name),
            useless=lost.mean <= threshold,
        )
        for name, (auc, lost) in found.items()
    ]
    return FeatureReport(
        n_rows=len(part),
        repeats=repeats,
        threshold=threshold,
        auc=asked.auc,
        log_loss=float(asked.losses.mean()),
        features=tuple(sorted(worths, key=lambda worth: -worth.log_loss.value)),
    )


class _Asked:
    """The rows of a part, and what the ranker says of them as they are."""

    def __init__(self, checkpoint: RankerCheckpoint, rows: RankingRows, part: NDArray[np.int64]) -> None:
        self._checkpoint, self._schema = checkpoint, checkpoint.featuriser.schema()
        self._features, self._labels, self._users = rows.features.take(part), rows.labels[part], rows.users[part]
        chances = checkpoint.chances(self._features)
        self.auc, self.losses = ctr.auc(self._labels, chances), losses(self._labels, chances)

    def without(self, name: str, orders: list[NDArray[np.int64]]) -> tuple[float, Difference]:
        """What is lost of AUC, and of log loss, when a feature is dealt out in these orders: the means over them."""
        dealt = [self._checkpoint.chances(permuted(self._features, self._schema, name, order)) for order in orders]
        lost = np.mean([losses(self._labels, chances) for chances in dealt], axis=0)
        auc = self.auc - float(np.mean([ctr.auc(self._labels, chances) for chances in dealt]))
        return auc, paired_difference(lost, self.losses, groups=self._users)


def permuted(features: Features, schema: Schema, name: str, order: NDArray[np.int64]) -> Features:
    """The same rows, with the values of one feature in another order."""
    ids, numbers, lists, sequences = features.ids, features.numbers, list(features.lists), list(features.sequences)
    if (at := _place(name, (space.name for space in schema.categorical))) is not None:
        ids = ids.copy()
        ids[:, at] = ids[order, at]
    elif (at := _place(name, schema.numbers)) is not None:
        numbers = numbers.copy()
        numbers[:, at] = numbers[order, at]
    elif (at := _place(name, (space.name for space in schema.lists))) is not None:
        lists[at] = lists[at].take(order)
    elif (at := _place(name, (space.name for space in schema.sequences))) is not None:
        sequences[at] = sequences[at].take(order)
    else:
        raise KeyError(name)
    return Features(ids, numbers, tuple(lists), tuple(sequences))


def _place(name: str, names: Iterable[str]) -> int | None:
    return next((place for place, own in enumerate(names) if own == name), None)


def gains_of(checkpoint: RankerCheckpoint) -> dict[str, float]:
    """The share of each feature in the gains of a forest's splits, by name; nothing for other rankers."""
    network = checkpoint.network()
    if not isinstance(network, Trees):
        return {}
    gains = network.gains.double().numpy()
    whole = float(gains.sum()) or 1.0
    out: dict[str, float] = {}
    for name, gain in zip(network.names, gains.tolist(), strict=True):
        out[name] = out.get(name, 0.0) + gain / whole
    return out
