"""A bundle with a ranker behind real worker processes."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.ranked import history, pre_ranked_bundle, ranked_bundle
from tests.serving import Served, ask, served


@pytest.fixture(scope="module")
def ranking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("ranking")
    bundle: Path = ranked_bundle(folder)
    with served(bundle, folder / "server", "--workers", "2") as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.errors.read_text()


def test_both_calls_rank_and_show_the_stages(ranking: Served) -> None:
    with httpx.Client(base_url=ranking.url) as client:
        found = ask(client, "/recommend", {"user": "u1", "k": 4, "trace": True, "deadline_ms": 5000})
        assert found["stage"] == "full"
        assert {"features", "ranker"} <= {stage["name"] for stage in found["stages"]}
        assert all(0 <= item["score"] <= 1 for item in found["items"])
        ranked = ask(client, "/rank", {"user": "u1", "candidates": ["i3", "i1", "unheard-of"]})
        assert ranked["items"][-1] == {"item": "unheard-of", "score": None}
        wrong = {"user": "u1", "context": {"retrieval_score": "high"}}
        error = ask(client, "/recommend", wrong, status=422)["error"]
        assert "context.retrieval_score" in error["message"]


def test_a_stream_shows_the_pre_rankers_list(tmp_path: Path) -> None:
    with (
        served(pre_ranked_bundle(tmp_path), tmp_path / "server") as running,
        httpx.Client(base_url=running.url) as client,
    ):
        body = {"user": "u1", "k": 3, "keep_seen": True}
        lines = client.post("/recommend/stream", json=body).text.splitlines()
        told = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
        assert [event["stage"] for event in told] == ["popular", "retrieval", "pre-rank", "full"]
        ask(client, "/recommend", body | {"deadline_ms": 5000})
        figures = client.get("/metrics").text
        assert 'millirec_stage_seconds_count{stage="pre-ranker"}' in figures
        assert running.stop() == 0


def test_every_worker_ranks_by_events_that_any_has_acknowledged(ranking: Served) -> None:
    """A new connection may meet another worker: all give the same chances, and other ones after each event."""
    last, told, workers = int(history().interactions.times.max()), [], set()
    for n in range(4):
        event = {
            "event": "interaction",
            "user": "u2",
            "item": f"i{n % 3 + 1}",
            "value": 1,
            "timestamp": last + 2000 * n,
        }
        with httpx.Client(base_url=ranking.url) as client:
            assert ask(client, "/feedback", event) == {"accepted": 1}
        answers = set()
        for _ in range(8):
            body = {"user": "u2", "candidates": ["i4", "i5"], "timestamp": last + 2000 * n + 1000}
            with httpx.Client(base_url=ranking.url) as client:
                answer = client.post("/rank", json=body)
                workers.add(answer.headers["x-worker"])
                answers.add(tuple(item["score"] for item in answer.json()["items"]))
        assert len(answers) == 1
        told.append(answers.pop())
    assert len(set(told)) == 4
    assert len(workers) == 2
