"""Every address of a real server, and every way to be refused."""

import json
import socket
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from millirec.bundle import open_bundle
from millirec.cascade.query import Query
from millirec.data.event import Event
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore, StoreSettings
from tests.serving import Served, ask, event, served

JSON = {"content-type": "application/json"}


def names(answer: dict) -> list[str]:
    return [item["item"] for item in answer["items"]]


def raw(port: int, data: bytes) -> bytes:
    """What the server says to these bytes, until it closes or falls silent."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as sock:
        sock.sendall(data)
        sock.settimeout(2)
        out = b""
        try:
            while chunk := sock.recv(65_536):
                out += chunk
        except TimeoutError:
            pass
        return out


def test_recommend_says_what_the_engine_says(client: httpx.Client, bundle: Path) -> None:
    answer = ask(client, "/recommend", {"items": ["i1", "i2", "i9"], "k": 5, "trace": True, "explain": True})
    with StateStore.temporary() as store:
        engine = Engine(open_bundle(bundle), store)
        expected = engine.recommend(Query(items=("i1", "i2", "i9"), k=5))
    assert names(answer) == list(expected.items)
    assert [item["score"] for item in answer["items"]] == pytest.approx(list(expected.scores), abs=1e-6)
    assert answer["model"] == "tiny"
    assert answer["model_version"] == open_bundle(bundle).version
    assert 0 < answer["took_ms"] < 10_000
    assert [stage["name"] for stage in answer["stages"]] == [stage.name for stage in expected.trace]
    assert {item["source"] for item in answer["items"]} == {expected.source}


def test_stages_and_sources_come_only_when_asked_for(client: httpx.Client) -> None:
    answer = ask(client, "/recommend", {"items": ["i1"]})
    assert set(answer) == {"took_ms", "model", "model_version", "items"}
    assert set(answer["items"][0]) == {"item", "score"}
    assert len(answer["items"]) == 10


def test_an_event_changes_the_next_answer(client: httpx.Client) -> None:
    unknown = names(ask(client, "/recommend", {"user": "fresh"}))
    assert unknown == [f"i{n}" for n in range(1, 11)]  # nothing known: the popular ones
    assert ask(client, "/feedback", event("fresh", "i3")) == {"accepted": 1}
    known = names(ask(client, "/recommend", {"user": "fresh"}))
    assert known == names(ask(client, "/recommend", {"items": ["i3"]}))
    assert "i3" not in known


def test_a_list_of_events_and_all_their_kinds(client: httpx.Client) -> None:
    events = [
        event("lister", "i1", timestamp="2020-01-01T00:00:00Z", type="view", value=1.0, context={"p": 1}),
        event("lister", "i2", timestamp=1577836801000),
        {"event": "interaction", "session": "visit", "item": "i5"},
        {"event": "user", "user": "lister", "fields": {"age": 30}},
        {"event": "item", "item": "i60", "fields": {"genre": "war"}},
    ]
    assert ask(client, "/feedback", events) == {"accepted": 5}
    assert ask(client, "/feedback", []) == {"accepted": 0}
    by_state = names(ask(client, "/recommend", {"user": "lister"}))
    assert by_state == names(ask(client, "/recommend", {"items": ["i1", "i2"]}))
    by_session = names(ask(client, "/recommend", {"session": "visit"}))
    assert by_session == names(ask(client, "/recommend", {"items": ["i5"]}))


def test_bounds_of_a_question(client: httpx.Client) -> None:
    full = names(ask(client, "/recommend", {"items": ["i1"], "k": 59}))
    assert len(full) == 59
    assert names(ask(client, "/recommend", {"items": ["i1"], "k": 3, "exclude": full[:2]})) == full[2:5]
    included = names(ask(client, "/recommend", {"items": ["i1"], "include": [full[7], full[4], "nope"]}))
    assert included == [full[4], full[7]]
    war = names(ask(client, "/recommend", {"items": ["i1"], "k": 60, "where": {"genre": "drama"}}))
    assert war
    assert all(int(name[1:]) % 3 == 1 for name in war)
    assert "i1" in names(ask(client, "/recommend", {"items": ["i1"], "k": 60, "keep_seen": True}))


def test_conditions_and_boosts(client: httpx.Client) -> None:
    base = {"items": ["i1"], "k": 59, "exclude": ["i60"]}  # whose genre another test has changed
    full = ask(client, "/recommend", base)["items"]

    def genre(name: str) -> int:
        return int(name[1:]) % 3  # comedy, drama, war

    two = names(ask(client, "/recommend", base | {"where": {"genre": ["comedy", "drama"]}}))
    assert two == [item["item"] for item in full if genre(item["item"]) < 2]
    none = ask(client, "/recommend", base | {"where": {"genre": {"none_of": ["comedy"]}}})
    assert names(none) == [item["item"] for item in full if genre(item["item"])]
    boost = [{"where": {"genre": "war"}, "add": 1000}]
    boosted = ask(client, "/recommend", base | {"boost": boost})
    assert [genre(name) for name in names(boosted)][:20] == [2] * 20
    expected = {item["item"]: item["score"] + 1000 * (genre(item["item"]) == 2) for item in full}
    assert [item["score"] for item in boosted["items"]] == pytest.approx(sorted(expected.values(), reverse=True))
    ranked = ask(client, "/rank", {"items": ["i1"], "candidates": ["i3", "i5", "?"], "boost": boost})
    assert names(ranked) == ["i5", "i3", "?"]


def test_a_deadline_is_kept_by_the_last_stage_in_time(client: httpx.Client) -> None:
    usual = ask(client, "/recommend", {"items": ["i1"], "k": 5})
    patient = ask(client, "/recommend", {"items": ["i1"], "k": 5, "deadline_ms": 60_000})
    assert "stage" not in usual
    assert (patient["stage"], names(patient)) == ("full", names(usual))
    hurried = ask(client, "/recommend", {"items": ["i1"], "k": 5, "deadline_ms": 1e-3, "explain": True})
    assert hurried["stage"] == "popular"
    assert {item["source"] for item in hurried["items"]} == {"popular"}
    assert "i1" not in names(hurried)
    ranked = ask(client, "/rank", {"items": ["i1"], "candidates": ["i9", "i2"], "deadline_ms": 1e-3})
    assert (ranked["stage"], names(ranked)) == ("popular", ["i2", "i9"])
    ask(client, "/recommend", {"items": ["i1"], "deadline_ms": 0}, status=422)


def test_exclude_wins_over_include(client: httpx.Client) -> None:
    answer = ask(client, "/recommend", {"items": ["i1"], "include": ["i5", "i6"], "exclude": ["i5"]})
    assert names(answer) == ["i6"]


def test_rank_orders_the_callers_own(client: httpx.Client) -> None:
    full = names(ask(client, "/recommend", {"items": ["i1"], "k": 59}))
    mine = [full[30], "unheard-of", full[2], full[10]]
    answer = ask(client, "/rank", {"items": ["i1"], "candidates": mine})
    assert names(answer) == [full[2], full[10], full[30], "unheard-of"]
    assert answer["items"][-1]["score"] is None
    assert names(ask(client, "/rank", {"items": ["i1"], "candidates": mine, "k": 1})) == [full[2]]


def test_similar(client: httpx.Client) -> None:
    answer = client.get("/items/i7/similar", params={"k": 4})
    assert answer.status_code == 200
    found = answer.json()
    assert len(found["items"]) == 4
    assert "i7" not in names(found)
    assert len(client.get("/items/i7/similar").json()["items"]) == 10
    unknown = client.get("/items/no%2Fsuch%20item/similar")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "not_found"
    assert "no/such item" in unknown.json()["error"]["message"]
    for query in ("k=0", "k=1001", "k=x", "k=", "k=1&k=2", "n=3", "k=%31", "k=99999999999"):
        assert client.get(f"/items/i7/similar?{query}").status_code == 422


def test_pages_and_health(client: httpx.Client, server: Served) -> None:
    assert client.get("/health/live").json()["status"] == "live"
    ready = client.get("/health/ready").json()
    assert (ready["status"], ready["model"], ready["pid"]) == ("ready", "tiny", server.process.pid)
    root = client.get("/")
    assert (root.status_code, root.headers["location"]) == (307, "/docs")
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    for word in ("/recommend", "/feedback", "deadline_ms", "curl", "accepted"):
        assert word in page.text
    for fetched in ("src=", "http://cdn", "https://", "@import", "url("):
        assert fetched not in page.text
    assert client.head("/health/live").status_code == 200


def test_metrics_show_what_happened(client: httpx.Client) -> None:
    before = client.get("/metrics").text
    for _ in range(5):
        ask(client, "/recommend", {"items": ["i1"]})
    ask(client, "/recommend", {"k": 0}, status=422)
    after = client.get("/metrics").text

    def value(text: str, start: str) -> float:
        found = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(start)]
        return sum(found)

    ok = 'millirec_requests_total{route="/recommend",status="200"}'
    refused = ok.replace("200", "422")
    assert value(after, ok) - value(before, ok) == 5
    assert value(after, refused) - value(before, refused) == 1
    stage = 'millirec_stage_seconds_count{stage="encode"}'
    assert value(after, stage) - value(before, stage) == 5
    assert "millirec_batch_size_bucket" in after
    assert 'millirec_model_info{model="tiny"' in after


def test_the_yardstick_decodes_and_answers_a_fixed_body(client: httpx.Client) -> None:
    assert ask(client, "/noop", {"items": ["i1"], "k": 3}) == {"ok": True, "took_ms": 0.0}
    assert ask(client, "/noop", {"kk": 3}, status=422)["error"]["field"] == "$.kk"


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "field"),
    [
        ("/recommend", b"", 400, "invalid_json", None),
        ("/recommend", b"{", 400, "invalid_json", None),
        ("/recommend", b"{}x", 400, "invalid_json", None),
        ("/recommend", b'{"user": "\xff"}', 400, "invalid_json", None),
        ("/recommend", b"[" * 200_000, 422, "invalid_field", "$"),
        ("/recommend", b'{"user": ' + b"[" * 200_000, 422, "invalid_field", "$.user"),
        ("/recommend", b'{"usr": "u"}', 422, "unknown_field", "$.usr"),
        ("/recommend", b'{"k": 1001}', 422, "invalid_field", "$.k"),
        ("/recommend", b'{"where": {"colour": "red"}}', 422, "invalid_request", None),
        ("/recommend", b'{"where": {"genre": {"at_lest": 1}}}', 422, "unknown_field", "$.where[...].at_lest"),
        ("/recommend", b'{"where": {"genre": {}}}', 422, "invalid_request", None),
        ("/recommend", b'{"where": {"genre": {"all_of": ["a"], "none_of": ["a"]}}}', 422, "invalid_request", None),
        ("/recommend", b'{"where": {"genre": {"at_least": 2, "at_most": 1}}}', 422, "invalid_request", None),
        ("/recommend", b'{"where": {"genre": {"at_least": 2}}}', 422, "invalid_request", None),
        ("/recommend", b'{"boost": [{"where": {"genre": "war"}, "times": 0}]}', 422, "invalid_request", None),
        ("/recommend", b'{"boost": [{"times": 2}]}', 422, "missing_field", "$.boost[0].where"),
        ("/rank", b'{"candidates": []}', 422, "invalid_field", "$.candidates"),
        ("/rank", b"{}", 422, "missing_field", "$.candidates"),
        ("/feedback", b'{"event": "interaction", "item": "i"}', 422, "invalid_field", "$"),
        ("/feedback", b'[{"event":"item","item":"i","fields":{},"o":1}]', 422, "unknown_field", "$[0].o"),
        ("/feedback", b'{"event":"item","item":"i","fields":{"available":"no"}}', 422, "invalid_request", None),
    ],
)  # fmt: skip
def test_refusals(client: httpx.Client, path: str, body: bytes, status: int, code: str, field: str | None) -> None:
    answer = client.post(path, content=body, headers=JSON)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error.get("field")) == (status, code, field)
    assert error["message"]
    assert error["mend"]
    assert "Traceback" not in answer.text


def test_a_refused_list_is_refused_whole(client: httpx.Client) -> None:
    bad = [event("half", "i1"), {"event": "item", "item": "i", "fields": {"available": 1}}]
    ask(client, "/feedback", bad, status=422)
    assert names(ask(client, "/recommend", {"user": "half"})) == [f"i{n}" for n in range(1, 11)]


def test_no_such_address_and_no_such_method(client: httpx.Client) -> None:
    for path in ("/nope", "/recommend/", "/items/i1", "/recommend/../x"):
        answer = client.post(path, json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_such_route")
    for method, path in (("GET", "/recommend"), ("PUT", "/feedback"), ("POST", "/docs"), ("DELETE", "/metrics")):
        answer = client.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
        assert answer.headers["allow"]


def test_only_json_is_taken(client: httpx.Client) -> None:
    answer = client.post("/recommend", content=b"{}", headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    typed = client.post("/recommend", content=b"{}", headers={"content-type": "Application/JSON; charset=utf-8"})
    assert typed.status_code == 200
    assert raw_status(client, b"") == 200


def raw_status(client: httpx.Client, more: bytes) -> int:
    """A POST of `{}` with a hand-made head: no content type unless given."""
    head = b"POST /recommend HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n" + more
    return int(raw(client.base_url.port or 0, head + b"\r\n{}").split()[1])


def test_bodies_up_to_the_limit_and_above(client: httpx.Client) -> None:
    limit = 1 << 20
    fits = b'{"k":3' + b" " * (limit - 7) + b"}"
    assert len(fits) == limit
    assert client.post("/recommend", content=fits, headers=JSON).status_code == 200
    answer = client.post("/recommend", content=fits + b" ", headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    answer = client.post("/recommend", content=fits * 3, headers=JSON)
    assert answer.status_code == 413


def test_chunked_bodies_are_measured_too(client: httpx.Client) -> None:
    def chunks(n: int):
        for _ in range(n):
            yield b" " * 65_536

    small = client.post("/recommend", content=iter([b'{"k"', b":3}"]), headers=JSON)
    assert len(small.json()["items"]) == 3
    answer = client.post("/recommend", content=chunks(40), headers=JSON)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_an_endless_body_is_cut_off(server: Served) -> None:
    head = b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=20)) as sock:
        sock.sendall(head + b"transfer-encoding: chunked\r\n\r\n")
        sent, chunk = 0, b"10000\r\n" + b" " * 65_536 + b"\r\n"
        try:
            while sent < 1 << 28:
                sock.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
    assert sent < 1 << 26


def test_a_claimed_length_that_never_comes_holds_nobody_up(server: Served, client: httpx.Client) -> None:
    head = b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=10)) as sock:
        sock.sendall(head)
        assert ask(client, "/recommend", {"k": 1})["items"]


def test_pipelined_requests_are_answered_in_order(server: Served) -> None:
    def one(k: int, more: bytes = b"") -> bytes:
        body = json.dumps({"items": ["i1"], "k": k}).encode()
        head = b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%s\r\n" % (len(body), more)
        return head + body

    said = raw(server.port, one(1) + one(2) + one(3, b"connection: close\r\n"))
    sizes = [part.count(b'"score"') for part in said.split(b"HTTP/1.1 200 OK")[1:]]
    assert sizes == [1, 2, 3]


def test_too_many_at_once_are_sent_away(bundle: Path, tmp_path: Path) -> None:
    """Two slots; two requests whose bodies do not come keep both."""
    with served(bundle, tmp_path, "--max-in-flight", "2") as server, httpx.Client(base_url=server.url) as client:
        head = b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"
        first, second = (socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(2))
        with closing(first), closing(second):
            first.sendall(head)
            second.sendall(head)
            deadline = time.monotonic() + 10
            while (answer := client.post("/recommend", json={})).status_code != 429:
                assert time.monotonic() < deadline
            assert answer.json()["error"]["code"] == "too_many_requests"
            assert answer.headers["retry-after"] == "1"
            assert client.get("/health/live").status_code == 200
            assert client.get("/items/i1/similar").status_code == 429
            first.sendall(b"{}")
            assert b"200 OK" in first.recv(1000)
        while client.post("/recommend", json={}).status_code == 429:
            assert time.monotonic() < deadline


def test_events_reach_the_log_as_they_were_sent(bundle: Path, tmp_path: Path) -> None:
    with served(bundle, tmp_path) as server:
        with httpx.Client(base_url=server.url) as client:
            ask(client, "/feedback", event("u", "i1", timestamp="2021-05-05T05:05:05Z", value=2.5))
            before = int(time.time() * 1000)
            ask(client, "/feedback", event("u", "new-item", type="buy"))
        assert server.stop() == 0
    with StateStore(server.data, StoreSettings(), read_only=True) as store:
        first, second = (record for _, record in store.records())
    assert first == Event(user="u", item="i1", time=1620191105000, value=2.5)
    assert (second.item, second.action) == ("new-item", "buy")
    assert before <= second.time <= int(time.time() * 1000)
