"""`explore`: makes every variant, measures all of them in turns, and chooses."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millirec.frontier.choice import Candidate, Choice, choose
from millirec.frontier.config import TEACHER, FrontierConfig, Variant
from millirec.frontier.laboratory import Laboratory
from millirec.frontier.pace import Watcher
from millirec.frontier.pareto import front
from millirec.frontier.quality import NDCG
from millirec.frontier.remarks import remarks
from millirec.frontier.result import Entry, Figures, Frontier
from millirec.frontier.schedule import AGAIN, FIRST, schedule
from millirec.frontier.speed import Speed, speed

MAKE, REPLAY, LOAD = "make", "replay", "load"


@dataclass(frozen=True, slots=True)
class _Task:
    """A piece of work: its kind, in words what it is about, whether only its result need be read, and the work."""

    kind: str
    what: str
    is_done: Callable[[], bool]
    do: Callable[[], object]


def explore(config: FrontierConfig, laboratory: Laboratory, watcher: Watcher, write: Callable[[Any], str]) -> Frontier:
    """Make every variant, replay the held-out questions through it, load it in rounds with the others, and choose.

    `laboratory` holds the teacher and keeps what is done. `write`: plain data as TOML. Raises a MillirecError that
    names the variant when one cannot be made or does not answer.
    """
    began = time.monotonic()
    variants = (laboratory.teacher, *config.variants)
    ahead = [task for task in _tasks(laboratory, variants) if not task.is_done()]
    watcher.plan(Counter(task.kind for task in ahead))
    for task in ahead:
        watcher.begin(task.kind, task.what)
        task.do()
        watcher.end()
    figures = [laboratory.described(variant, _speed(laboratory, variant)) for variant in variants]
    dataset = laboratory.dataset
    return Frontier(
        name=config.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 1),
        host=laboratory.host,
        data=dataset.fingerprint,
        protocol=dataset.protocol,
        measure=config.measure,
        limits=config.limits,
        gate=config.gate,
        variants=tuple(_entries(config, variants, figures, write)),
        choice=_choice(config, laboratory, variants, figures),
    )


def _tasks(lab: Laboratory, variants: Sequence[Variant]) -> Iterator[_Task]:
    for variant in variants:
        yield _Task(MAKE, variant.name, lambda v=variant: lab.is_made(v), lambda v=variant: lab.make(v))  # type: ignore[misc]
    for variant in variants:
        yield _Task(REPLAY, variant.name, lambda v=variant: lab.is_examined(v), lambda v=variant: lab.answers(v))  # type: ignore[misc]
    for visit in schedule(variants, lab.measure):
        yield _load_task(lab, *visit)


def _load_task(lab: Laboratory, number: int, turn: str, variant: Variant) -> _Task:
    return _Task(
        LOAD,
        f"{variant.name}, round {number + 1} of {lab.measure.rounds}",
        lambda: lab.is_visited(variant, number, turn),
        lambda: lab.visit(variant, number, turn),
    )


def _speed(lab: Laboratory, variant: Variant) -> Speed:
    """Only the teacher is visited twice a round."""
    rounds, twice = range(lab.measure.rounds), variant.name == TEACHER
    first = [lab.visit(variant, number, FIRST) for number in rounds]
    again = [lab.visit(variant, number, AGAIN) for number in rounds] if twice else []
    return speed(first, again, lab.measure.spread)


def _entries(
    config: FrontierConfig, variants: Sequence[Variant], figures: Sequence[Figures], write: Callable[[Any], str]
) -> Iterator[Entry]:
    masks = {name: front(_costs(figures, cost)) for name, cost in AXES.items()}
    for i, (variant, own) in enumerate(zip(variants, figures, strict=True)):
        yield Entry(
            figures=own,
            fronts=tuple(name for name, mask in masks.items() if mask[i]),
            remarks=tuple(remarks(variant, own, figures[0], config.measure.spread)),
            config=write(config.only(variant.name)),
        )


AXES: dict[str, Callable[[Figures], float]] = {
    "p99": lambda one: one.speed.p99_ms.median,
    "bytes": lambda one: one.bundle_bytes,
    "requests/s": lambda one: -one.speed.requests_per_second.median,
}
"""What is held against quality, as costs."""


def _costs(figures: Sequence[Figures], cost: Callable[[Figures], float]) -> NDArray[np.float64]:
    return np.array([(-one.quality.figures[NDCG].value, cost(one)) for one in figures])


def _choice(config: FrontierConfig, lab: Laboratory, variants: Sequence[Variant], figures: Sequence[Figures]) -> Choice:
    named = {variant.name: variant for variant in variants}
    candidates = [
        Candidate(
            name=one.name,
            ndcg=one.quality.figures[NDCG].value,
            kept_low=one.quality.kept.low or 0.0,
            p99_ms=one.speed.p99_ms.median,
            memory_mb=one.speed.memory_mb.median,
            bundle_mb=one.bundle_bytes / 1e6,
            requests_per_second=one.speed.requests_per_second.median,
            errors=sum(one.speed.errors.values()),
        )
        for one in figures
    ]
    return choose(candidates, config.limits, config.gate, lambda a, b: lab.contrast(named[a], named[b]))
