"""Fewer inputs: features that add nothing are left out, and no server needs to gather them any more."""

from dataclasses import replace

import msgspec
import torch
from torch import nn

from millirec.compress.rankers.base import RankerWorkshop, recovered
from millirec.data.errors import ConfigError
from millirec.data.features import Featuriser, Schema
from millirec.data.features.config import SequenceField
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.models.rankers.config import RankerConfig, build_ranker
from millirec.models.rankers.din import DINConfig
from millirec.models.rankers.fields import FieldVectors, spans
from millirec.train.feature_report import feature_report
from millirec.train.fit_ranker import training_of
from millirec.train.rank_config import RankTrainConfig


class LeaveOut(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="features"):
    """Features that add no more than `threshold` of log loss on the validation rows when they are permuted go; or those
    named in `leave_out`. A categorical feature stays as long as a sequence has its vectors.

    A network of the same config learns anew on what is left, as `train` says or as the ranker was trained; the vectors
    of values begin where they stood.
    """

    threshold: float = 0.0
    leave_out: tuple[str, ...] | None = None
    repeats: int = 3
    train: RankTrainConfig | None = None

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ConfigError(f"repeats = {self.repeats}", "choose at least 1")

    @property
    def needs_data(self) -> bool:
        """Rows to measure on and to learn from."""
        return True

    def rewritten(self, config: RankerConfig, schema: Schema) -> RankerConfig:
        """The same config."""
        if config.table_bits is not None or config.weights != "fp32":
            raise ConfigError("the ranker is quantised already", "leave features out before it is")
        known = {*spans(schema), *schema.numbers, *(space.name for space in schema.sequences)}
        unknown = sorted(set(self.leave_out or ()) - known)
        if unknown:
            raise ConfigError(f"leave_out names {unknown}", f"choose among {sorted(known)}")
        return config

    def apply(self, checkpoint: RankerCheckpoint, workshop: RankerWorkshop) -> RankerCheckpoint:
        """Measure, leave out, learn anew."""
        self.rewritten(checkpoint.config, checkpoint.featuriser.schema())
        train = self.train or training_of(checkpoint)
        featuriser = _without(checkpoint.featuriser, self._useless(checkpoint, workshop))
        if isinstance(checkpoint.config, DINConfig) and not featuriser.schema().sequences:
            raise ConfigError("no sequence would be left for the attention of `din`", "distil into another kind first")
        workshop.machine.prepare()
        network = build_ranker(checkpoint.config, featuriser.schema())
        _begin(network, checkpoint)
        made = replace(checkpoint, featuriser=featuriser, parameters=network.state_dict())
        return recovered(made, network, train, workshop)

    def _useless(self, checkpoint: RankerCheckpoint, workshop: RankerWorkshop) -> set[str]:
        if self.leave_out is not None:
            return set(self.leave_out)
        rows = workshop.rows(checkpoint)
        report = feature_report(checkpoint, rows, repeats=self.repeats, threshold=self.threshold)
        return {worth.name for worth in report.features if worth.useless}


def _without(featuriser: Featuriser, names: set[str]) -> Featuriser:
    """A featuriser of the other fields. Raises ConfigError when none is left."""
    needed = {f.of for f in featuriser.fields if isinstance(f, SequenceField) and f.name not in names}
    gone = names - needed
    if len(gone) == len(featuriser.fields):
        raise ConfigError("no feature would be left", "lower `threshold`, or name fewer in `leave_out`")
    return featuriser.without(gone)


@torch.no_grad()
def _begin(network: nn.Module, checkpoint: RankerCheckpoint) -> None:
    """Vectors of the values and numbers that stay begin as they were."""
    before, after = spans(checkpoint.featuriser.schema()), spans(network.schema)  # type: ignore[arg-type]
    numbers = checkpoint.featuriser.schema().numbers
    for name, module in network.named_modules():
        if isinstance(module, FieldVectors):
            old, new = checkpoint.parameters[f"{name}.table.weight"], module.get_parameter("table.weight")
            for feature, (start, end) in after.items():
                new[start:end] = old[slice(*before[feature])]
            places = [numbers.index(own) for own in network.schema.numbers]  # type: ignore[union-attr]
            module.numbers.copy_(checkpoint.parameters[f"{name}.numbers"][places])
