"""What the wire takes, refuses, and turns into records and questions."""

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millirec.cascade.query import Ranking
from millirec.cascade.rules import Boost
from millirec.data.event import Event, ItemUpdate, UserUpdate
from millirec.server import wire
from millirec.server.fault import fault_of

decode_feedback = msgspec.json.Decoder(wire.FeedbackRequest).decode
decode_recommend = msgspec.json.Decoder(wire.RecommendRequest).decode


def refused(decode: object, body: str) -> dict:
    """The error that a body is refused with."""
    with pytest.raises(msgspec.DecodeError) as caught:
        decode(body)
    fault = fault_of(caught.value)
    return {"status": fault.status} | msgspec.json.decode(fault.body)["error"]


def test_one_event_becomes_one_record() -> None:
    request = decode_feedback(
        '{"event": "interaction", "user": "u", "session": "s", "item": "i", "type": "rating", "timestamp": 7,'
        ' "value": 4.5, "context": {"page": "home"}}'
    )
    assert wire.records(request, 99) == [
        Event(user="u", session="s", item="i", action="rating", time=7, value=4.5, context={"page": "home"})
    ]


def test_a_list_keeps_its_order_and_the_clock_fills_in() -> None:
    request = decode_feedback(
        '[{"event": "item", "item": "i", "fields": {"genre": ["a", "b"], "year": 1999, "available": false}},'
        ' {"event": "user", "user": "u", "timestamp": 5, "fields": {"age": 3.5}},'
        ' {"event": "interaction", "session": "s", "item": "i"}]'
    )
    assert wire.records(request, 99) == [
        ItemUpdate(item="i", time=99, fields={"genre": ["a", "b"], "year": 1999.0, "available": False}),
        UserUpdate(user="u", time=5, fields={"age": 3.5}),
        Event(session="s", item="i", time=99),
    ]


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0", 0),
        ("1700000000123", 1700000000123),
        ('"1970-01-01T00:00:01Z"', 1000),
        ('"1970-01-01T00:00:01"', 1000),  # no zone: UTC
        ('"1970-01-01T02:00:01.0019+02:00"', 1001),
        ('"2000-02-29T12:00:00Z"', 951825600000),
        ("null", 42),
    ],
)
def test_timestamps(text: str, ms: int) -> None:
    body = f'{{"event": "interaction", "user": "u", "item": "i", "timestamp": {text}}}'
    assert wire.records(decode_feedback(body), 42)[0].time == ms


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)))
def test_iso_and_milliseconds_agree(when: datetime) -> None:
    aware = when.replace(tzinfo=UTC)
    whole = aware.replace(microsecond=aware.microsecond // 1000 * 1000)
    assert wire.milliseconds(when, 0) == wire.milliseconds(aware, 0) == round(whole.timestamp() * 1000)


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ('{"event":"interaction","item":"i"}', "invalid_field", "$"),
        ('[{"event":"interaction","item":"i","user":"u"},{"event":"interaction","item":"i"}]', "invalid_field", "$[1]"),
        ('{"event":"interaction","user":"u"}', "missing_field", "$.item"),
        ('{"event":"interaction","user":"u","item":""}', "invalid_field", "$.item"),
        ('{"event":"interaction","user":"u","item":3}', "invalid_field", "$.item"),
        ('{"event":"interaction","user":"u","item":"i","tpye":"x"}', "unknown_field", "$.tpye"),
        ('[{"event":"item","item":"i","fields":{},"x":1}]', "unknown_field", "$[0].x"),
        ('{"event":"purchase","user":"u","item":"i"}', "invalid_field", "$.event"),
        ('{"user":"u","item":"i"}', "missing_field", "$.event"),
        ('{"event":"item","item":"i","fields":{"a":[1]}}', "invalid_field", "$.fields[...][0]"),
        ('{"event":"interaction","user":"u","item":"i","timestamp":-1}', "invalid_field", "$.timestamp"),
        ('{"event":"interaction","user":"u","item":"i","timestamp":"1969-12-31T23:59:59Z"}', "invalid_field", "$"),
        ('{"event":"interaction","user":"u","item":"i","timestamp":"yesterday"}', "invalid_field", "$.timestamp"),
        ('{"event":"interaction","user":"u","item":"i","value":1e999}', "invalid_field", "$.value"),
        ('"text"', "invalid_field", "$"),
    ],
)  # fmt: skip
def test_feedback_is_refused_with_the_path(body: str, code: str, field: str) -> None:
    error = refused(decode_feedback, body)
    assert (error["status"], error["code"], error["field"]) == (422, code, field)
    assert error["message"]
    assert error["mend"]


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ('{"k":0}', "invalid_field", "$.k"),
        ('{"k":1001}', "invalid_field", "$.k"),
        ('{"k":"10"}', "invalid_field", "$.k"),
        ('{"k":1.5}', "invalid_field", "$.k"),
        ('{"users":"u"}', "unknown_field", "$.users"),
        ('{"user":"' + "u" * 513 + '"}', "invalid_field", "$.user"),
        ('{"items":["a",null]}', "invalid_field", "$.items[1]"),
        ('{"items":[' + ",".join(['"a"'] * 10_001) + "]}", "invalid_field", "$.items"),
        ('{"where":{"genre":1}}', "invalid_field", "$.where[...]"),
        ('{"deadline_ms":0}', "invalid_field", "$.deadline_ms"),
        ("[]", "invalid_field", "$"),
    ],
)
def test_recommend_is_refused_with_the_path(body: str, code: str, field: str) -> None:
    error = refused(decode_recommend, body)
    assert (error["status"], error["code"], error["field"]) == (422, code, field)


def test_a_long_list_of_events_is_refused_before_it_is_read_in() -> None:
    one = '{"event":"interaction","user":"u","item":"i"}'
    assert len(decode_feedback(f"[{','.join([one] * 10_000)}]")) == 10_000
    assert refused(decode_feedback, f"[{','.join([one] * 10_001)}]")["status"] == 422


@pytest.mark.parametrize("body", ["", "{", "{'k': 1}", '{"k": NaN}', '{"user": "\\ud800"}', "[" * 100_000])
def test_what_is_not_json(body: str) -> None:
    with pytest.raises((msgspec.DecodeError, RecursionError)) as caught:
        decode_recommend(body)
    assert fault_of(caught.value).status in (400, 422)


def test_questions_carry_every_field() -> None:
    request = decode_recommend(
        '{"user":"u","session":"s","items":["a","b"],"timestamp":7,"k":3,"exclude":["c"],"include":["d"],'
        '"where":{"g":"x"},"boost":[{"where":{"g":["x","y"]},"times":2}],"keep_seen":true,"context":{"n":1},'
        '"deadline_ms":5,"explain":true,"trace":true,"request_id":"r","own":["e"]}'
    )
    query = wire.query_of(request)
    shown = msgspec.structs.asdict(query)
    assert shown == {
        "user": "u", "session": "s", "items": ("a", "b"), "time": 7, "k": 3, "exclude": ("c",),
        "include": ("d",), "where": {"g": "x"}, "boost": (Boost(where={"g": ("x", "y")}, times=2),),
        "candidates": None, "keep_seen": True, "context": {"n": 1}, "deadline_ms": 5.0, "request_id": "r",
        "own": ("e",), "due": None,
    }  # fmt: skip


def test_scores_without_a_number_go_out_as_null() -> None:
    ranking = Ranking(items=("a", "b"), scores=(1.5, float("-inf")), source="sequence")
    assert msgspec.json.encode(wire.scored(ranking)) == b'[{"item":"a","score":1.5},{"item":"b","score":null}]'
    assert [item.item for item in wire.scored(ranking, k=1)] == ["a"]
    assert wire.scored(ranking, explain=True)[0].source == "sequence"
