"""`Speed`: medians and spread over the visits of a variant, and whether they agree."""

from collections.abc import Sequence
from statistics import median

import msgspec

from millirec.frontier.visit import Visit

_ITS_CORE = 0.9  # of a core: a server under full load that uses less has shared it with other work


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Repeated measurements: median, least, most, and the median absolute deviation."""

    median: float
    low: float
    high: float
    mad: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        middle = median(values)
        mad = median(abs(value - middle) for value in values)
        return cls(median=round(middle, 4), low=min(values), high=max(values), mad=round(mad, 4))

    @property
    def relative(self) -> float:
        """The deviation as a share of the median."""
        return self.mad / self.median if self.median else 0.0


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of `Visit` over all rounds. `noisy`: why they should not be trusted, empty = they agree.

    `stages`: medians over the rounds of each stage's p50, p90 and p99, in microseconds.
    """

    requests_per_second: Spread
    p50_ms: Spread
    p90_ms: Spread
    p99_ms: Spread
    cpu_seconds: Spread
    memory_mb: Spread
    start_seconds: Spread
    stages: dict[str, tuple[float, float, float]]
    errors: dict[str, int]
    noisy: tuple[str, ...]


_SPREADS = ("requests_per_second", "p50_ms", "p90_ms", "p99_ms", "cpu_seconds", "memory_mb", "start_seconds")
_JUDGED = {"requests_per_second": "requests/s", "p99_ms": "p99"}


def speed(first: Sequence[Visit], again: Sequence[Visit], spread: float) -> Speed:
    """From the visits of all rounds. `again`: those of a variant that is visited twice a round, at its end.

    `spread`: by how much (a share) repeated figures may differ.
    """
    visits = [*first, *again]
    spreads = {name: Spread.of([getattr(one, name) for one in visits]) for name in _SPREADS}
    errors: dict[str, int] = {}
    for one in visits:
        for status, n in one.errors.items():
            errors[status] = errors.get(status, 0) + n
    noisy = [*_unsteady(spreads, spread), *_drifted(first, again, spread), *_disturbed(visits)]
    return Speed(**spreads, stages=_stages(visits), errors=errors, noisy=tuple(noisy))


def _unsteady(spreads: dict[str, Spread], most: float) -> list[str]:
    return [
        f"{label} deviates by {spreads[name].relative:.0%} from round to round"
        for name, label in _JUDGED.items()
        if spreads[name].relative > most
    ]


def _drifted(first: Sequence[Visit], again: Sequence[Visit], most: float) -> list[str]:
    """Two medians of the same thing, measured at the beginning and at the end of the rounds."""
    out = []
    for name, label in _JUDGED.items() if again else ():
        a, b = (median(getattr(one, name) for one in visits) for visits in (first, again))
        if abs(a - b) > most * (a + b) / 2:
            out.append(f"{label} was {a:,.5g} at the beginning of the rounds and {b:,.5g} at their end")
    return out


def _disturbed(visits: Sequence[Visit]) -> list[str]:
    out = []
    used = median(one.cpu for one in visits)
    if used < _ITS_CORE:
        out.append(f"the server got {used:.0%} of its core: other work runs on this machine")
    if median(one.short for one in visits):
        out.append("the load generator was the bottleneck: the server can do more")
    return out


def _stages(visits: Sequence[Visit]) -> dict[str, tuple[float, float, float]]:
    out = {}
    for name in dict.fromkeys(name for one in visits for name in one.stages):
        rows = [one.stages[name] for one in visits if name in one.stages]
        p50, p90, p99 = (round(median(column), 1) for column in zip(*rows, strict=True))
        out[name] = (p50, p90, p99)
    return out
