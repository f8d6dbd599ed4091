"""Server-sent events: every stage's list in order, the last one as /recommend gives it, and nothing for who is gone."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from millirec.cascade.cascade import CascadeConfig
from millirec.cascade.selectors import MMRSelector
from millirec.server.app import Application
from millirec.server.service import Service
from millirec.server.settings import ServerSettings
from tests.server.test_openapi import check
from tests.serving import Served, ask, event, served

STAGES = ["popular", "retrieval", "full"]
MMR = '[[selectors]]\nkind = "mmr"\nrelevance = 0.3\n'


@pytest.fixture(scope="module")
def staged(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server whose cascade has selectors, so that there are three stages."""
    folder = tmp_path_factory.mktemp("staged")
    (folder / "mmr.toml").write_text(MMR)
    with served(bundle, folder, "--cascade", str(folder / "mmr.toml"), "--impressions") as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.errors.read_text()


@pytest.fixture
def client(staged: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=staged.url, timeout=30) as session:
        yield session


def events(client: httpx.Client, body: object) -> list[dict[str, Any]]:
    """The data of the events of one stream, parsed as browsers do."""
    out = []
    with client.stream("POST", "/recommend/stream", json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-store"
        name = ""
        for line in answer.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                assert name == "stage"
                out.append(json.loads(value))
    return out


def names(answer: dict[str, Any]) -> list[str]:
    return [item["item"] for item in answer["items"]]


def test_the_stages_come_in_order_and_the_last_is_the_answer(client: httpx.Client) -> None:
    for item in ("i1", "i7", "i9"):
        ask(client, "/feedback", event("ann", item))
    for body in ({"user": "ann", "k": 7}, {"items": ["i3", "i4"], "where": {"genre": "war"}, "exclude": ["i2"]}):
        found = events(client, body)
        assert [one["stage"] for one in found] == STAGES
        assert [one["final"] for one in found] == [False, False, True]
        whole = ask(client, "/recommend", body)
        assert found[-1]["items"] == whole["items"]
        assert found[-1]["model_version"] == whole["model_version"]
        retrieval, popular = found[1], found[0]
        assert names(popular) != names(retrieval) != names(found[-1])
        for one in found:  # rules hold at every stage
            assert not {"i1", "i7", "i9"} & set(names(one)) or "user" not in body
            assert "i2" not in names(one) or "exclude" not in body
        scores = [item["score"] for item in retrieval["items"]]
        assert scores == sorted(scores, reverse=True)
        assert [one["took_ms"] for one in found] == sorted(one["took_ms"] for one in found)


def test_traces_and_impressions_are_those_of_the_last_stage(client: httpx.Client, staged: Served) -> None:
    found = events(client, {"items": ["i1", "i2"], "k": 5, "trace": True, "request_id": "seen"})
    stages = [[stage["name"] for stage in one["stages"]] for one in found]
    assert stages[0] == ["state", "popular", "seen", "top-k"]
    assert stages[1] == ["state", "encode", "sequence", "seen", "inner-product", "top-k"]
    assert stages[2] == ["state", "encode", "sequence", "seen", "inner-product", "mmr"]
    whole = ask(client, "/recommend", {"items": ["i1", "i2"], "k": 5, "trace": True})
    assert [stage["name"] for stage in whole["stages"]] == stages[2]
    assert staged.stop  # the server goes on; its impressions are read when it has written them

    def logged() -> list[dict[str, Any]]:
        files = (staged.data / "impressions").glob("*.jsonl")
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return [line for line in lines if line["request_id"] == "seen"]

    for _ in range(100):
        if logged():
            break
        asyncio.run(asyncio.sleep(0.1))
    assert [line["items"] for line in logged()] == [names(found[-1])]


def test_a_stage_for_which_there_is_no_time_is_not_announced(client: httpx.Client) -> None:
    events(client, {"items": ["i1"], "deadline_ms": 60_000})  # now it is known what stages take
    found = events(client, {"items": ["i1"], "deadline_ms": 0.001})
    assert [(one["stage"], one["final"]) for one in found] == [("popular", True)]
    found = events(client, {"items": ["i1"], "deadline_ms": 60_000})
    assert [one["stage"] for one in found] == STAGES


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400),
        ('{"usr": "ann"}', 422),
        ('{"k": 0}', 422),
        ('{"where": {"colour": "red"}}', 422),
        ('{"own": ["i1"]}', 422),
    ],
)
def test_bad_input_is_refused_before_the_stream_begins(client: httpx.Client, body: str, status: int) -> None:
    for path in ("/recommend", "/recommend/stream"):
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["mend"]


def test_openapi_tells_of_events_and_they_are_as_told(client: httpx.Client) -> None:
    spec = client.get("/openapi.json").json()
    operation = spec["paths"]["/recommend/stream"]["post"]
    (kind,) = operation["responses"]["200"]["content"]
    assert kind == "text/event-stream"
    schema = operation["responses"]["200"]["content"][kind]["schema"]
    assert schema == {"$ref": "#/components/schemas/StageEvent"}
    content = operation["requestBody"]["content"]["application/json"]
    found = events(client, content["example"])
    assert [check(one, schema, spec) for one in found] == [[]] * len(found)
    assert "event-stream" not in client.get("/docs").text or "/recommend/stream" in client.get("/docs").text
    text = client.get("/metrics").text
    assert re.search(r'millirec_requests_total\{route="/recommend/stream",status="200"\} [1-9]', text)


async def opened(bundle: Path, data: Path) -> Service:
    ready = asyncio.Event()
    cascade = CascadeConfig(selectors=(MMRSelector(relevance=0.3),))
    settings = ServerSettings(bundle=str(bundle), data=str(data), cascade=cascade)
    service = Service(settings, lambda *_: ready.set(), lambda error: pytest.fail(str(error)))
    service.start()
    await asyncio.wait_for(ready.wait(), 60)
    return service


class Visitor:
    """The two ends of an ASGI connection. Goes away after `stays` events; notes how many encodings came before each."""

    def __init__(self, service: Service, stays: int) -> None:
        self.encoded, self.stays = 0, stays
        self.seen: list[tuple[str, int]] = []
        self._left = asyncio.Event()
        self._asked = False
        runner = service.engine._loaded.members.all[0].runner
        encode = runner.encode

        def counted(batch: Any) -> Any:
            self.encoded += 1
            return encode(batch)

        runner.encode = counted  # type: ignore[method-assign]

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b'{"items": ["i1"]}', "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body" and message["body"]:
            data = json.loads(message["body"].split(b"data: ")[1])
            self.seen.append((data["stage"], self.encoded))
            if len(self.seen) == self.stays:
                self._left.set()


@pytest.mark.parametrize("stays", [1, 2, 3])
def test_nothing_is_computed_before_its_turn_nor_for_who_is_gone(bundle: Path, tmp_path: Path, stays: int) -> None:
    async def run() -> tuple[Visitor, Service]:
        service = await opened(bundle, tmp_path / "data")
        visitor = Visitor(service, stays)
        scope = {"type": "http", "method": "POST", "path": "/recommend/stream", "headers": []}
        await Application(service)(scope, visitor.receive, visitor.send)
        assert service.in_flight == 0
        await service.stop()
        return visitor, service

    visitor, _ = asyncio.run(run())
    assert visitor.seen == [("popular", 0), ("retrieval", 1), ("full", 1)][:stays]
    assert visitor.encoded == min(stays - 1, 1)
