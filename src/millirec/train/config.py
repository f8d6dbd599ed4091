"""`TrainConfig`: how a network is trained."""

from typing import Literal

import msgspec

from millirec.data.errors import ConfigError
from millirec.train.adversarial import AdversarialConfig
from millirec.train.losses import FullSoftmax, LossConfig
from millirec.train.schedule import check_ranges

_AT_LEAST_1 = ("epochs", "batch_size", "accumulate", "patience", "validate_every")
_AT_LEAST_0 = ("weight_decay", "l2", "clip_norm", "warmup_steps", "decay_epochs", "validation_targets")


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a network is trained.

    A step of the optimizer takes `accumulate` batches of `batch_size` sequences. `weight_decay` is decoupled
    (AdamW); `l2` is added to the loss's gradient (Adam). Training ends after `epochs`, after `max_minutes`, or
    when NDCG@10 on the validation part has not risen in `patience` validations; the best weights are kept.
    `validation_targets` > 0 validates on a sample of that size.

    The learning rate rises linearly over `warmup_steps` steps, then follows `schedule` down to `final_share` of
    itself over `decay_epochs` (0 = all epochs). Without a `schedule`, `decay_epochs` > 0 means a cosine.
    `ema` > 0 averages the weights exponentially with that decay; the averages are what is validated and kept.
    `windows`: "newest" learns from each user's newest `max_length` + 1 events, "all" from the whole history, cut
    into such windows at places that are drawn anew for each epoch.

    `sparse_rows` is for large catalogues with a loss that samples: a step moves only the item vectors that its batches
    looked up, and its time does not grow with the catalogue.
    """

    loss: LossConfig = FullSoftmax()
    epochs: int = 200
    batch_size: int = 128
    accumulate: int = 1
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine", "linear"] | None = None
    warmup_steps: int = 0
    decay_epochs: int = 0
    final_share: float = 0.1
    weight_decay: float = 0.0
    l2: float = 0.0
    clip_norm: float = 0.0
    ema: float = 0.0
    windows: Literal["newest", "all"] = "newest"
    adversarial: AdversarialConfig | None = None
    patience: int = 10
    validate_every: int = 1
    validation_targets: int = 0
    max_minutes: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    repeats: bool = False
    sparse_rows: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, _AT_LEAST_1, _AT_LEAST_0)
        if self.weight_decay and self.l2:
            raise ConfigError("$.train: both `weight_decay` and `l2` are set", "choose one")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"$.train.ema = {self.ema}", "choose 0 (off) or a decay below 1, such as 0.999")
        if self.sparse_rows:
            self._check_sparse()

    def _check_sparse(self) -> None:
        if isinstance(self.loss, FullSoftmax):
            raise ConfigError(
                "$.train.sparse_rows: the full softmax moves every row", "choose a $.train.loss that samples"
            )
        for name in ("weight_decay", "l2", "ema", "adversarial"):
            if getattr(self, name):
                raise ConfigError(f"$.train.sparse_rows: $.train.{name} moves every row", "leave one of the two out")
