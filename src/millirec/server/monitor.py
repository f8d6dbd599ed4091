"""Prometheus metrics that cost the hot way a list append; histograms are filled in bulk once a second.

With several workers each process writes its own memory-mapped files (prometheus-client's multiprocess mode, switched
on by PROMETHEUS_MULTIPROC_DIR before this module is imported), and `/metrics` of any worker shows the sum.
"""

import os
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector

from millirec.cascade.query import Ranking, Trace
from millirec.server.report import METRICS

_REQUEST_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
_STAGE_SECONDS = (5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 1.0)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_FLUSH_AT = 8192


class Bulk:
    """A histogram that takes many observations at once.

    `Histogram.observe` walks the buckets in Python for every value; here NumPy counts first.
    """

    def __init__(self, histogram: Histogram, buckets: Sequence[float]) -> None:
        self._histogram, self._edges = histogram, np.asarray(buckets, np.float64)

    def observe(self, values: Sequence[float], labels: Sequence[str] = ()) -> None:
        """Add `values` (n,) to the child with `labels`. A value on an edge belongs to the lower bucket."""
        child = self._histogram.labels(*labels) if labels else self._histogram
        array = np.asarray(values, np.float64)
        slots = np.searchsorted(self._edges, array, side="left")
        for slot, count in enumerate(np.bincount(slots, minlength=len(self._edges) + 1).tolist()):
            if count:
                child._buckets[slot].inc(count)
        child._sum.inc(float(array.sum()))


class Monitor:
    """What a worker counts. Used from its event loop only."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests: list[tuple[str, int, float]] = []
        self._traces: list[Trace] = []
        self._batches: list[int] = []
        registry = self._registry
        self._count = Counter("millirec_requests", "Requests answered", ("route", "status"), registry=registry)
        self._seconds = Bulk(
            Histogram(
                "millirec_request_seconds", "Time from a request's arrival to its answer", ("route",),
                buckets=_REQUEST_SECONDS, registry=registry,
            ),
            _REQUEST_SECONDS,
        )  # fmt: skip
        self._stages = Bulk(
            Histogram(
                "millirec_stage_seconds", "Time of each stage of the cascade", ("stage",),
                buckets=_STAGE_SECONDS, registry=registry,
            ),
            _STAGE_SECONDS,
        )  # fmt: skip
        self._sizes = Bulk(
            Histogram(
                "millirec_batch_size", "Questions that shared one encoder call",
                buckets=_BATCH_SIZES, registry=registry,
            ),
            _BATCH_SIZES,
        )  # fmt: skip
        self.accepted = Counter("millirec_events_accepted", "Events made durable", registry=registry)
        self._shown = Counter("millirec_impressions", "Lists logged as shown", registry=registry)
        self._lost = Counter("millirec_impressions_dropped", "Lists not logged: too many waited", registry=registry)
        self._staged = Counter(
            "millirec_deadline_answers", "Answers with a deadline, by the stage they came from", ("stage",),
            registry=registry,
        )  # fmt: skip
        self._left_out = Counter(
            "millirec_left_out", "Answers without one of several models, and why", ("member", "reason"),
            registry=registry,
        )  # fmt: skip
        self._in_flight = Gauge(
            "millirec_in_flight", "Requests being handled", multiprocess_mode="livesum", registry=registry
        )
        self._ready = Gauge(
            "millirec_ready_workers", "Workers that answer", multiprocess_mode="livesum", registry=registry
        )
        self._model = Gauge(
            "millirec_model_info", "The model that answers", ("model", "version"),
            multiprocess_mode="livemax", registry=registry,
        )  # fmt: skip

    def request(self, route: str, status: int, seconds: float) -> None:
        """Note one answered request. Cheap: the histograms are filled later."""
        self._requests.append((route, status, seconds))
        if len(self._requests) >= _FLUSH_AT:
            self.flush()

    def impression(self, *, kept: bool) -> None:
        """Note one list that was logged as shown, or found no room."""
        (self._shown if kept else self._lost).inc()

    def ranking(self, ranking: Ranking) -> None:
        """Note what the stages of one ranking took, and what there was no time for."""
        self._traces.append(ranking.trace)
        if ranking.stage is not None:
            self._staged.labels(ranking.stage).inc()
        if ranking.left_out:
            for member, reason in ranking.left_out.items():
                self._left_out.labels(member, reason).inc()

    def batch(self, size: int) -> None:
        """Note how many questions shared one encoder call."""
        self._batches.append(size)

    def ready(self, model: str, version: str) -> None:
        """This worker answers, with this model."""
        self._ready.set(1)
        self._model.labels(model, version).set(1)

    def swapped(self, old: tuple[str, str], new: tuple[str, str]) -> None:
        """Another model answers."""
        self._model.labels(*old).set(0)
        self._model.labels(*new).set(1)

    def stopped(self) -> None:
        """This worker answers no longer."""
        self._ready.set(0)

    def flush(self, in_flight: int | None = None) -> None:
        """Bring what was noted into the metrics."""
        if in_flight is not None:
            self._in_flight.set(in_flight)
        requests, self._requests = self._requests, []
        traces, self._traces = self._traces, []
        batches, self._batches = self._batches, []
        counts: defaultdict[tuple[str, int], int] = defaultdict(int)
        routes: defaultdict[str, list[float]] = defaultdict(list)
        stages: defaultdict[str, list[float]] = defaultdict(list)
        for route, status, seconds in requests:
            counts[route, status] += 1
            routes[route].append(seconds)
        for trace in traces:
            for stage in trace:
                stages[stage.name].append(stage.microseconds)
        for (route, status), count in counts.items():
            self._count.labels(route, str(status)).inc(count)
        for route, values in routes.items():
            self._seconds.observe(values, (route,))
        for name, values in stages.items():
            self._stages.observe([value * 1e-6 for value in values], (name,))
        if batches:
            self._sizes.observe(batches)

    def render(self, in_flight: int) -> bytes:
        """The Prometheus text of this worker, or of all workers that share a folder."""
        self.flush(in_flight)
        if METRICS in os.environ:
            everybody = CollectorRegistry()
            MultiProcessCollector(everybody)  # type: ignore[no-untyped-call]
            return generate_latest(everybody)
        return generate_latest(self._registry) + generate_latest(_process())


def _process() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry
