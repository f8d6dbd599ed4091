"""`RankTrainConfig`: how a feature ranker is trained."""

from typing import Literal

import msgspec

from millirec.data.errors import ConfigError
from millirec.train.adversarial import AdversarialConfig
from millirec.train.calibrate import Method
from millirec.train.schedule import check_ranges

_AT_LEAST_1 = ("epochs", "batch_size", "patience", "max_weight")
_AT_LEAST_0 = ("l2", "l2_embeddings", "clip_norm", "warmup_steps", "decay_epochs")


class RankTrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a feature ranker is trained: binary cross-entropy, Adam, batches of rows.

    `l2_embeddings` is added to the gradient of the vectors of all values at every step, seen or not, which is what
    keeps rare ones from learning rows by heart; `l2` to that of everything else. Training ends after `epochs`, or when
    the `monitor` on the validation part has not improved in `patience` epochs; the best weights are kept.

    `adversarial` attacks the vectors of values. `propensities`: the context, such as "context.propensity", that tells
    with which chance a row was shown; rows then weigh 1 / chance, at most `max_weight`.

    The learning rate as in `TrainConfig`. `calibration`: what the validation part then fits to the logits.
    """

    epochs: int = 20
    batch_size: int = 2048
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine", "linear"] | None = None
    warmup_steps: int = 0
    decay_epochs: int = 0
    final_share: float = 0.1
    l2: float = 0.0
    l2_embeddings: float = 1e-6
    clip_norm: float = 0.0
    patience: int = 3
    monitor: Literal["auc", "log_loss"] = "auc"
    calibration: Method = "platt"
    max_minutes: float | None = None
    adversarial: AdversarialConfig | None = None
    propensities: str | None = None
    max_weight: float = 10.0

    def __post_init__(self) -> None:
        check_ranges(self, _AT_LEAST_1, _AT_LEAST_0)
        if self.propensities is not None and not self.propensities.startswith("context."):
            raise ConfigError(f"$.train.propensities = {self.propensities!r}", "name a context, as context.propensity")
