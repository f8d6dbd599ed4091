"""Popularity: what everybody takes, now or always. The baseline that every other model must beat."""

import msgspec
import torch
from torch import Tensor, nn

from millirec.data.errors import ConfigError
from millirec.models.base import Inputs

_DAY_MS = 86_400_000


class PopularityConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="popularity"
):
    """Counts events of the newest `window_days` before the end of training, or of all time when absent.

    With `half_life_days` an event counts half as much as one that many days newer.
    """

    window_days: float | None = None
    half_life_days: float | None = None

    def __post_init__(self) -> None:
        for name in ("window_days", "half_life_days"):
            days = getattr(self, name)
            if days is not None and days <= 0:
                raise ConfigError(f"$.model.{name} = {days}", "choose a positive number of days")


class Popularity(nn.Module):
    """The score of an item is its number of events, whoever asks."""

    votes = True

    counts: Tensor

    def __init__(self, config: PopularityConfig, n_items: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("counts", torch.zeros(n_items + 1))

    def fit(self, users: Tensor, items: Tensor, times: Tensor) -> None:
        """Count the events inside the window, each by its age."""
        del users
        days = (times.max() - times).double() / _DAY_MS
        weights = torch.ones_like(days)
        if self.config.half_life_days is not None:
            weights = torch.exp2(-days / self.config.half_life_days)
        if self.config.window_days is not None:
            weights[days > self.config.window_days] = 0
        self.counts = torch.bincount(items.long(), weights, minlength=len(self.counts)).float()

    def scores(self, inputs: Inputs, candidates: Tensor | None = None) -> Tensor:
        """Counts, (B, n_items + 1) or (B, C)."""
        everyone = self.counts.expand(len(inputs.lengths), -1)
        return everyone if candidates is None else everyone.gather(1, candidates.long())
