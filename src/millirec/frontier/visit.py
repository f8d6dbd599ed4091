"""`Visit`: one measurement of a bundle's speed through a real server of its own."""

import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np

from millirec.bundle import Bundle
from millirec.cascade.query import Stage
from millirec.data.errors import ConfigError, UnavailableError
from millirec.engine.settings import EngineSettings
from millirec.frontier.config import Measure
from millirec.frontier.launch import Running, cores_apart, free_cores, server
from millirec.frontier.load import LoadReport, LoadSettings, load
from millirec.frontier.processes import ProcessTree, Usage
from millirec.frontier.questions import Questions, connected, exchange, feed, requests
from millirec.train.machine import generator

ANSWER = "answer"
"""The stage of a trace that stands for the whole answer: from a request's arrival in the server to its answer."""

_TRACES = 400
_PERCENTILES = (50, 90, 99)


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """What one measurement showed.

    `start_seconds`: until the server was ready. Under full load: `requests_per_second`, `cpu` (share of one core that
    the server used), `cpu_seconds` (a thousand requests), `memory_mb` (resident, MiB). `p50_ms`, `p90_ms`, `p99_ms`:
    latencies at the stated rate. `stages`: microseconds of each stage of an answer, p50, p90, p99, one request at a
    time. `errors`: answers that were none, by status. `short`: the generator or the machine was too slow to say more.
    """

    start_seconds: float
    requests_per_second: float
    cpu: float
    cpu_seconds: float
    memory_mb: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    stages: dict[str, tuple[float, float, float]]
    errors: dict[str, int]
    short: bool


class _Traced(msgspec.Struct):
    took_ms: float
    stages: tuple[Stage, ...]


def check_cores(measure: Measure) -> None:
    """Raises ConfigError when the server cannot be pinned as asked, or its memory cannot be read here."""
    cores = free_cores()
    if isinstance(measure.core, int) and (measure.core not in cores or len(cores) < 2):
        usable = ", ".join(map(str, cores)) or "none"
        raise ConfigError(
            f"$.measure.core = {measure.core}: the cores here are {usable}", 'choose one of two or more, or "auto"'
        )
    if ProcessTree.known(os.getpid()) is None:
        raise ConfigError("$.measure: CPU and memory of a server cannot be read here", "run the frontier on Linux")


def visit(bundle: Bundle, settings: EngineSettings, measure: Measure, number: int) -> Visit:
    """Start a server for the bundle, load it, take its figures, stop it. `number` seeds the arrivals.

    Raises UnavailableError when the server does not come up or does not answer.
    """
    questions = _questions(measure)
    with _server(bundle, settings, measure) as running:
        if questions.users:
            feed(running.url, questions, bundle.catalog.vocabulary.ids)
        ready = _ready(bundle, questions, running)
        full = LoadSettings(seconds=measure.seconds, warm_up=measure.warm_up, connections=measure.connections)
        most = _load(running, ready, full)
        paced = _load(running, ready, _paced(measure, number))
        stages = _stages(running, bundle, questions, measure)
    used = _usage(most)
    return Visit(
        start_seconds=round(running.start_seconds, 3),
        requests_per_second=most.requests_per_second,
        cpu=used.cpu,
        cpu_seconds=round(1000 * used.cpu_seconds / max(most.n, 1), 4),
        memory_mb=used.rss_mb,
        p50_ms=paced.latency_ms.p50,
        p90_ms=paced.latency_ms.p90,
        p99_ms=paced.latency_ms.p99,
        stages=stages,
        errors=dict(Counter(most.errors) + Counter(paced.errors)),
        short=most.generator_is_bottleneck or paced.generator_is_bottleneck,
    )


def engine_options(settings: EngineSettings, folder: Path) -> tuple[str, ...]:
    """How `millirec serve` and `millirec bench` are told of settings; a file in `folder` holds them."""
    if settings == EngineSettings():
        return ()
    file = folder / "engine.toml"
    file.write_text(settings.toml(), encoding="utf-8")
    return "--engine", str(file)


@contextmanager
def _server(bundle: Bundle, settings: EngineSettings, measure: Measure) -> Iterator[Running]:
    with ExitStack() as stack:
        options = engine_options(settings, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        cores = None
        if measure.core != "none":
            core = None if measure.core == "auto" else measure.core
            cores, _ = stack.enter_context(cores_apart(1, core))
        yield stack.enter_context(server(bundle.folder, 1, cores, options))


def _questions(measure: Measure) -> Questions:
    """Those of `millirec bench` with the same settings."""
    stored = measure.ask != "histories"
    return Questions(
        path="mixed" if measure.ask == "mixed" else "/recommend",
        history=measure.history,
        k=measure.k,
        users=tuple(f"bench-{i}" for i in range(measure.known_users)) if stored else (),
        seed=measure.seed,
    )


def _paced(measure: Measure, number: int) -> LoadSettings:
    """At the stated rate (open loop, random arrivals), or one request after the other."""
    return LoadSettings(
        rate=measure.rate,
        arrivals="poisson",
        seconds=measure.seconds,
        warm_up=measure.warm_up / 2,
        connections=measure.connections if measure.rate else 1,
        seed=measure.seed + number,
    )


def _ready(bundle: Bundle, questions: Questions, running: Running) -> list[bytes]:
    ids, weights = bundle.catalog.vocabulary.ids, (bundle.popularity[1:] + 1).astype("float64")
    return requests(questions, urlsplit(running.url).netloc, ids, weights)


def _load(running: Running, ready: list[bytes], settings: LoadSettings) -> LoadReport:
    where = urlsplit(running.url)
    report = load(where.hostname or "", where.port or 80, ready, settings, ProcessTree.known(running.pid))
    if not report.requests_per_second:
        raise UnavailableError(f"{running.model}: no answer under load ({report.errors})", "raise $.measure.seconds")
    return report


def _usage(report: LoadReport) -> Usage:
    if report.server is None:
        raise UnavailableError("CPU and memory of the server cannot be read here", "run the frontier on Linux")
    return report.server


def _stages(
    running: Running, bundle: Bundle, questions: Questions, measure: Measure
) -> dict[str, tuple[float, float, float]]:
    """Microseconds of each stage of `_TRACES` answers (fewer when they are slow), one after the other."""
    times: dict[str, list[float]] = defaultdict(list)
    end = time.perf_counter() + measure.seconds
    with connected(running.url) as connection:
        for event, question in _asked(bundle.catalog.vocabulary.ids, questions):
            if event is not None:
                exchange(connection, "POST", "/feedback", dict, event)
            answer = exchange(connection, "POST", "/recommend", _Traced, question)
            for stage in answer.stages:
                times[stage.name].append(stage.microseconds)
            times[ANSWER].append(1e3 * answer.took_ms)
            if time.perf_counter() > end:
                break
    return {name: _percentiles(values) for name, values in times.items()}


def _asked(ids: Sequence[str], questions: Questions) -> Iterator[tuple[dict[str, Any] | None, dict[str, Any]]]:
    """Events (or None) and the traced questions after them."""
    rng = generator(questions.seed, 41)
    for i in range(_TRACES):
        items = [ids[row] for row in rng.integers(0, len(ids), questions.history).tolist()]
        user = questions.users[i % len(questions.users)] if questions.users else None
        event = {"event": "interaction", "user": user, "item": items[0]} if questions.writes else None
        yield event, {**({"user": user} if user else {"items": items}), "k": questions.k, "trace": True}


def _percentiles(values: list[float]) -> tuple[float, float, float]:
    p50, p90, p99 = np.percentile(values, _PERCENTILES).round(1).tolist()
    return p50, p90, p99
