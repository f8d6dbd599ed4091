"""The bulk histogram against prometheus-client's own `observe`, and the text that scrapers read."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from millirec.cascade.query import Ranking, Stage
from millirec.server.monitor import Bulk, Monitor

BUCKETS = (0.001, 0.01, 0.1, 1.0)


@given(st.lists(st.floats(0, 10) | st.sampled_from(BUCKETS), max_size=40))
def test_bulk_counts_as_observe_does(values: list[float]) -> None:
    texts = []
    for bulk in (True, False):
        registry = CollectorRegistry()
        histogram = Histogram("seconds", "help", ("route",), buckets=BUCKETS, registry=registry)
        if bulk:
            Bulk(histogram, BUCKETS).observe(values, ("/a",))
        else:
            child = histogram.labels("/a")
            for value in values:
                child.observe(value)
        lines = generate_latest(registry).decode().splitlines()
        texts.append({line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line[0] != "#"})
    created = [name for name in texts[0] if "_created" in name]
    for text in texts:
        for name in created:
            del text[name]
    assert texts[0].keys() == texts[1].keys()
    np.testing.assert_allclose(list(texts[0].values()), list(texts[1].values()), rtol=1e-12)


def sample(monitor: Monitor, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(monitor.render(3).decode()):
        for found in family.samples:
            if found.name == name and found.labels == labels:
                return found.value
    raise AssertionError(f"no sample {name} {labels}")


def test_what_was_noted_is_rendered() -> None:
    monitor = Monitor()
    for _ in range(3):
        monitor.request("/recommend", 200, 0.002)
    monitor.request("/recommend", 422, 0.0001)
    trace = (Stage("encode", 1, 1, 80.0), Stage("search", 1, 10, 20.0))
    monitor.ranking(Ranking(items=(), scores=(), source="popular", trace=trace))
    monitor.ranking(Ranking(items=(), scores=(), source="x", stage="retrieval", left_out={"a": "late"}))
    monitor.batch(5)
    monitor.ready("tiny", "abc")
    monitor.accepted.inc(7)
    assert sample(monitor, "millirec_requests_total", route="/recommend", status="200") == 3
    assert sample(monitor, "millirec_requests_total", route="/recommend", status="422") == 1
    assert sample(monitor, "millirec_request_seconds_count", route="/recommend") == 4
    assert sample(monitor, "millirec_request_seconds_bucket", route="/recommend", le="0.0025") == 4
    assert sample(monitor, "millirec_request_seconds_bucket", route="/recommend", le="0.001") == 1
    assert abs(sample(monitor, "millirec_stage_seconds_sum", stage="encode") - 80e-6) < 1e-12
    assert sample(monitor, "millirec_batch_size_bucket", le="8.0") == 1
    assert sample(monitor, "millirec_batch_size_bucket", le="4.0") == 0
    assert sample(monitor, "millirec_in_flight") == 3
    assert sample(monitor, "millirec_deadline_answers_total", stage="retrieval") == 1
    assert sample(monitor, "millirec_left_out_total", member="a", reason="late") == 1
    assert sample(monitor, "millirec_model_info", model="tiny", version="abc") == 1
    assert sample(monitor, "millirec_events_accepted_total") == 7


def test_memory_stays_bounded_without_a_flush() -> None:
    monitor = Monitor()
    for _ in range(20_000):
        monitor.request("/recommend", 200, 0.001)
    assert len(monitor._requests) < 10_000
    assert sample(monitor, "millirec_requests_total", route="/recommend", status="200") == 20_000
