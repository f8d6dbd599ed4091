"""`bots`: histories that look as if a program had made them."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.data.errors import ConfigError

_MINUTE = 60_000


class Bots(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What makes a history implausible; each sign is enough, and 0 turns it off.

    `events_per_minute`: so many events, or more, within any minute. `regular`: this share of the gaps between events
    differs from their median by at most `jitter` of it (histories of `min_events` or more, with a median above 0).
    `length_factor`: more than so many times the length that the share `length_quantile` of the users does not exceed.
    """

    events_per_minute: int = 200
    regular: float = 0.9
    jitter: float = 0.05
    min_events: int = 20
    length_factor: float = 5.0
    length_quantile: float = 0.99

    def __post_init__(self) -> None:
        if self.events_per_minute < 0 or self.events_per_minute == 1:
            raise ConfigError(
                f"$.thin.bots.events_per_minute = {self.events_per_minute}", "choose 2 or more, or 0 (off)"
            )
        for name in ("regular", "jitter", "length_quantile"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"$.thin.bots.{name} = {getattr(self, name):g}", "choose a share from 0 to 1")
        if self.min_events < 3:
            raise ConfigError(f"$.thin.bots.min_events = {self.min_events}", "choose 3 or more")
        if self.length_factor < 0 or 0 < self.length_factor < 1:
            raise ConfigError(f"$.thin.bots.length_factor = {self.length_factor:g}", "choose 1 or more, or 0 (off)")

    @property
    def timed(self) -> bool:
        """Does any sign need times?"""
        return self.events_per_minute > 0 or self.regular > 0


def bots(times: NDArray[np.int64], lengths: NDArray[np.int64], config: Bots) -> dict[str, NDArray[np.bool_]]:
    """For each sign that is on, which histories show it, bool (n,).

    Histories lie one behind the other, in the order of time: `times` (m,) in ms, `lengths` (n,) of which may be 0.
    """
    owners = np.repeat(np.arange(len(lengths)), lengths)
    found = {}
    if config.events_per_minute:
        found["rapid"] = _rapid(times, owners, len(lengths), config.events_per_minute)
    if config.regular:
        found["regular"] = _regular(times, owners, lengths, config)
    if config.length_factor:
        own = lengths[lengths > 0]
        most = config.length_factor * np.quantile(own, config.length_quantile) if len(own) else 0.0
        found["long"] = lengths > most
    return found


def _rapid(times: NDArray[np.int64], owners: NDArray[np.int64], n: int, most: int) -> NDArray[np.bool_]:
    """`most` events of one history within less than a minute."""
    rapid = np.zeros(n, np.bool_)
    if len(times) >= most:
        first, last = slice(None, len(times) - most + 1), slice(most - 1, None)
        rapid[owners[first][(owners[first] == owners[last]) & (times[last] - times[first] < _MINUTE)]] = True
    return rapid


def _regular(
    times: NDArray[np.int64], owners: NDArray[np.int64], lengths: NDArray[np.int64], config: Bots
) -> NDArray[np.bool_]:
    """Gaps that are nearly all alike."""
    within = owners[1:] == owners[:-1]
    gaps, whose = np.diff(times)[within], owners[1:][within]
    gaps = gaps[np.lexsort((gaps, whose))]
    counts = np.maximum(lengths - 1, 0)
    starts = np.cumsum(counts) - counts
    medians = np.zeros(len(lengths))
    some = counts > 0
    medians[some] = gaps[(starts + counts // 2)[some]]
    near = np.abs(gaps - medians[whose]) <= config.jitter * medians[whose]
    shares = np.bincount(whose, near, minlength=len(lengths)) / np.maximum(counts, 1)
    regular: NDArray[np.bool_] = (lengths >= config.min_events) & (medians > 0) & (shares >= config.regular)
    return regular
