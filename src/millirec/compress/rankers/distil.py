"""A small ranker learns from what a large one says. Hinton, Vinyals and Dean, 2015."""

from dataclasses import replace

import msgspec

from millirec.compress.rankers.base import RankerWorkshop, recovered
from millirec.data.errors import ConfigError
from millirec.data.features import Schema
from millirec.models.base import MultiTask
from millirec.models.rankers.checkpoint import RankerCheckpoint, logits_of
from millirec.models.rankers.config import RankerConfig, build_ranker
from millirec.models.rankers.trees import TreesConfig
from millirec.train.fit_ranker import training_of
from millirec.train.rank_config import RankTrainConfig
from millirec.train.rank_loss import Lesson


class DistilRanker(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="distil"
):
    """The incoming ranker teaches a fresh `student` on the same features: the loss is (1 - `share`) that of the labels
    and `share` that of the teacher's chances. `train`: as the teacher was trained where it is left out.
    """

    student: RankerConfig
    share: float = 0.5
    train: RankTrainConfig | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ConfigError(f"share = {self.share}", "choose a share above 0, at most 1")

    @property
    def needs_data(self) -> bool:
        """The rows to learn from."""
        return True

    def rewritten(self, config: RankerConfig, schema: Schema) -> RankerConfig:
        """The student's config."""
        if isinstance(self.student, TreesConfig):
            raise ConfigError("student.kind = 'trees': trees learn from labels only", "choose a network")
        if isinstance(config, TreesConfig) and self.train is None:
            raise ConfigError("trees do not say how a network is trained", "give `train`")
        if isinstance(build_ranker(self.student, schema), MultiTask):
            raise ConfigError("a network of several tasks cannot be taught by one score", "choose another student")
        return self.student

    def apply(self, checkpoint: RankerCheckpoint, workshop: RankerWorkshop) -> RankerCheckpoint:
        """Ask the teacher of every row, then train."""
        rows = workshop.rows(checkpoint)
        lesson = Lesson(logits_of(checkpoint.network(), rows.features), self.share)
        workshop.machine.prepare()
        network = build_ranker(self.student, checkpoint.featuriser.schema())
        made = replace(checkpoint, config=self.student, parameters=network.state_dict())
        return recovered(made, network, self.train or training_of(checkpoint), workshop, lesson)
