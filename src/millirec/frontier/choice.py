"""`Choice`: the best variant within the limits, why it won, and what the runner-up would cost."""

from collections.abc import Callable, Sequence

import msgspec

from millirec.frontier.config import TEACHER, Limits
from millirec.frontier.quality import Contrast

SAME_P, SAME_SHARE = 0.05, 0.005
"""Two qualities are the same within the noise when p is at least this and they differ by less than this share."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """What a choice looks at. `kept_low`: the lower bound of the teacher's quality that is kept."""

    name: str
    ndcg: float
    kept_low: float
    p99_ms: float
    memory_mb: float
    bundle_mb: float
    requests_per_second: float
    errors: int = 0


class Miss(msgspec.Struct, frozen=True, kw_only=True):
    """A limit that a variant does not keep: what was `measured`, what is `allowed`, by how much it fails (a share)."""

    limit: str
    measured: float
    allowed: float
    excess: float

    def __str__(self) -> str:
        side = "above" if self.measured > self.allowed else "below"
        return f"{self.limit}: {self.measured:,.5g}, {self.excess:.1%} {side} {self.allowed:,.5g}"


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """`chosen`, or `nearest` when nothing fits; `reason` in words; the `runner_up` and what it would cost in words.

    `misses`: the limits that each variant fails, by name; empty = it fits.
    """

    chosen: str | None
    nearest: str | None
    reason: str
    runner_up: str | None
    runner_up_costs: str
    misses: dict[str, tuple[Miss, ...]]


def choose(
    candidates: Sequence[Candidate],
    limits: Limits,
    gate: float | None,
    compare: Callable[[str, str], Contrast],
) -> Choice:
    """Among those that keep every limit, the highest NDCG@10; where that is the same within the noise, the cheaper.

    The first candidate is the teacher, which needs no gate. `compare(a, b)`: the paired difference in NDCG@10 of two
    names, a minus b.
    """
    teacher = candidates[0].ndcg
    misses = {one.name: _misses(one, limits, gate, teacher) for one in candidates}
    fitting = [one for one in candidates if not misses[one.name]]
    if not fitting:
        nearest = min(candidates, key=lambda one: (max(miss.excess for miss in misses[one.name]), -one.ndcg))
        return _nothing(nearest, misses)
    best, reason = _best(fitting, compare)
    others = [one for one in fitting if one.name != best.name]
    second = _best(others, compare)[0] if others else None
    return Choice(
        chosen=best.name,
        nearest=None,
        reason=reason,
        runner_up=second.name if second else None,
        runner_up_costs=_costs(best, second, compare) if second else "nothing else keeps every limit",
        misses=misses,
    )


def _nothing(nearest: Candidate, misses: dict[str, tuple[Miss, ...]]) -> Choice:
    told = "; ".join(map(str, misses[nearest.name]))
    return Choice(
        chosen=None,
        nearest=nearest.name,
        reason=f"no variant keeps every limit; the nearest is {nearest.name}, with {told}",
        runner_up=None,
        runner_up_costs="",
        misses=misses,
    )


def _misses(one: Candidate, limits: Limits, gate: float | None, teacher: float) -> tuple[Miss, ...]:
    share = one.ndcg / teacher if teacher else 0.0
    found = [_above(name, getattr(one, field), getattr(limits, name)) for name, field in _MOST.items()]
    found += [
        _below("min_quality", one.ndcg, limits.min_quality),
        _below("min_quality_share", share, limits.min_quality_share),
        None if one.name == TEACHER else _below("gate", one.kept_low, gate),
        _above("errors under load", float(one.errors), 0.0),
    ]
    return tuple(miss for miss in found if miss is not None)


_MOST = {"max_p99_ms": "p99_ms", "max_memory_mb": "memory_mb", "max_bundle_mb": "bundle_mb"}


def _above(limit: str, measured: float, allowed: float | None) -> Miss | None:
    if allowed is None or measured <= allowed:
        return None
    excess = measured / allowed - 1 if allowed else float(measured)
    return Miss(limit=limit, measured=measured, allowed=allowed, excess=excess)


def _below(limit: str, measured: float, allowed: float | None) -> Miss | None:
    if allowed is None or measured >= allowed:
        return None
    return Miss(limit=limit, measured=measured, allowed=allowed, excess=1 - measured / allowed)


def _best(fitting: Sequence[Candidate], compare: Callable[[str, str], Contrast]) -> tuple[Candidate, str]:
    top = max(fitting, key=lambda one: (one.ndcg, one.requests_per_second))
    alike = {one.name: compare(top.name, one.name) for one in fitting if one.name != top.name}
    same = [top, *(one for one in fitting if one.name != top.name and _same(alike[one.name], top))]
    best = max(same, key=lambda one: (one.requests_per_second, one.ndcg))
    if len(fitting) == 1:
        return best, "it is the only variant that keeps every limit"
    if best is top:
        return best, f"it has the highest NDCG@10, {best.ndcg:.4f}, of the {len(fitting)} that keep every limit"
    found = alike[best.name]
    return best, (
        f"its NDCG@10, {best.ndcg:.4f}, is the same within the noise as the highest, {top.name} with {top.ndcg:.4f} "
        f"(p = {found.p_value:.2g}, {-found.difference / top.ndcg:+.2%}), and it answers "
        f"{best.requests_per_second:,.0f} requests/s against {top.requests_per_second:,.0f}"
    )


def _same(found: Contrast, top: Candidate) -> bool:
    return found.p_value >= SAME_P and abs(found.difference) < SAME_SHARE * top.ndcg


def _costs(best: Candidate, second: Candidate, compare: Callable[[str, str], Contrast]) -> str:
    found = compare(second.name, best.name)
    return (
        f"NDCG@10 {found.difference:+.4f} (p = {found.p_value:.2g}), p99 {second.p99_ms - best.p99_ms:+,.2f} ms, "
        f"requests/s {_times(second.requests_per_second, best.requests_per_second)}, "
        f"bundle {_times(second.bundle_mb, best.bundle_mb)}, memory {round(second.memory_mb - best.memory_mb):+,d} MiB"
    )


def _times(a: float, b: float) -> str:
    return f"x {a / b:.2f}" if b else "x inf"
