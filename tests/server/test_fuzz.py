"""Whatever comes in, nobody gets a 500, and every answer is JSON."""

import json
from urllib.parse import quote

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FUZZ = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HEADERS = {"content-type": "application/json"}
PATHS = st.sampled_from(["/recommend", "/feedback", "/rank", "/noop"])
NAMES = """event user session item items k exclude include where keep_seen context deadline_ms explain trace
candidates timestamp value type fields available boost times add any_of none_of at_least at_most request_id x"""
FIELDS = st.sampled_from(NAMES.split())
WORDS = st.sampled_from(["interaction", "item", "user", "i1", "i2", "i60", "nope", "genre", "war", ""])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 1002)
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS
    | st.text(max_size=20)
    | st.datetimes().map(str)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
IDS = st.lists(WORDS | st.text(min_size=1, max_size=8), max_size=6)
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "any_of": st.lists(WORDS, max_size=3), "all_of": st.lists(WORDS, max_size=3),
        "none_of": st.lists(WORDS, max_size=3), "at_least": st.floats(-9, 9), "at_most": st.floats(-9, 9),
    },
)  # fmt: skip
WHERE = st.dictionaries(
    st.sampled_from(["genre", "colour", ""]), WORDS | st.lists(WORDS, max_size=3) | CONDITIONS, max_size=2
)
BOOSTS = st.lists(
    st.fixed_dictionaries({"where": WHERE}, optional={"times": st.floats(0, 9), "add": st.floats(-9, 9)}), max_size=9
)
# Mostly right, so that the fuzz reaches the engine and not only the decoder.
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "user": WORDS, "session": WORDS, "items": IDS, "k": st.integers(1, 70), "exclude": IDS, "include": IDS,
        "where": WHERE, "boost": BOOSTS, "request_id": WORDS,
        "keep_seen": st.booleans(), "context": st.dictionaries(st.text(max_size=4), SCALARS, max_size=2),
        "deadline_ms": st.floats(1e-3, 60_000), "trace": st.booleans(), "explain": st.booleans(),
        "candidates": IDS,
    },
)  # fmt: skip
FACTS = st.fixed_dictionaries(
    {"event": st.sampled_from(["interaction", "item", "user"]), "user": WORDS, "item": WORDS},
    optional={
        "timestamp": st.integers(0, 2**53) | st.datetimes().map(lambda d: d.isoformat() + "Z"),
        "value": st.floats(allow_nan=False), "fields": st.dictionaries(st.text(max_size=5), SCALARS, max_size=3),
    },
)  # fmt: skip


def fine(answer: httpx.Response) -> None:
    assert answer.status_code in (200, 400, 413, 422), answer.text
    said = json.loads(answer.content)
    if answer.status_code >= 400:
        assert said["error"]["code"]
        assert said["error"]["message"]


@FUZZ
@given(PATHS, VALUES)
def test_any_json(client: httpx.Client, path: str, body: object) -> None:
    fine(client.post(path, content=json.dumps(body).encode(), headers=HEADERS))


@FUZZ
@given(st.sampled_from(["/recommend", "/rank"]), NEARLY)
def test_nearly_right_questions(client: httpx.Client, path: str, body: object) -> None:
    fine(client.post(path, content=json.dumps(body).encode(), headers=HEADERS))


@FUZZ
@given(st.lists(FACTS, max_size=4) | FACTS)
def test_nearly_right_events(client: httpx.Client, body: object) -> None:
    fine(client.post("/feedback", content=json.dumps(body).encode(), headers=HEADERS))


@FUZZ
@given(PATHS, st.binary(max_size=200))
def test_any_bytes(client: httpx.Client, path: str, body: bytes) -> None:
    fine(client.post(path, content=body, headers=HEADERS))


@FUZZ
@given(st.text(min_size=1, max_size=20), st.text(max_size=8))
def test_any_item_and_query_string(client: httpx.Client, item: str, k: str) -> None:
    answer = client.get(f"/items/{quote(item, safe='')}/similar?k={quote(k, safe='')}")
    assert answer.status_code in (200, 404, 422), answer.text
    json.loads(answer.content)
