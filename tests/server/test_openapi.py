"""The OpenAPI document is sound, and real answers are what it says."""

import re
from typing import Any

import httpx
import pytest

from millirec.server import wire
from tests.serving import event


@pytest.fixture
def spec(client: httpx.Client) -> dict[str, Any]:
    answer = client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def check(value: object, schema: dict[str, Any], spec: dict[str, Any], path: str = "$") -> list[str]:
    """What in `value` does not follow `schema`: the part of JSON Schema that the document uses."""
    if "$ref" in schema:
        found: Any = spec
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        return check(value, found, spec, path)
    if "anyOf" in schema:
        tries = [check(value, part, spec, path) for part in schema["anyOf"]]
        return [] if [] in tries else min(tries, key=len)
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{path}: {value} not in {schema['enum']}"]
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}
    kinds["number"] = (int, float)
    if not isinstance(value, kinds[schema["type"]]):
        return [f"{path}: {value!r} is no {schema['type']}"]
    if isinstance(value, dict) and "properties" in schema:
        missing = [f"{path}: no {name}" for name in schema.get("required", []) if name not in value]
        extra = [f"{path}: {name} is undeclared" for name in value if name not in schema["properties"]]
        inner = [
            problem
            for name, entry in value.items()
            if name in schema["properties"]
            for problem in check(entry, schema["properties"][name], spec, f"{path}.{name}")
        ]
        return missing + extra + inner
    if isinstance(value, list):
        item = schema.get("items", {})
        return [p for i, entry in enumerate(value) for p in check(entry, item, spec, f"{path}[{i}]")]
    return []


def answers(spec: dict[str, Any], path: str, method: str, status: int) -> dict[str, Any]:
    return spec["paths"][path][method]["responses"][str(status)]["content"]["application/json"]["schema"]


def test_structure(spec: dict[str, Any]) -> None:
    assert spec["openapi"] == "3.1.0"
    assert {"title", "version"} <= set(spec["info"])
    operations = [(path, method, op) for path, entry in spec["paths"].items() for method, op in entry.items()]
    assert len({op["operationId"] for _, _, op in operations}) == len(operations)
    for path, method, operation in operations:
        assert method in ("get", "post")
        assert operation["summary"]
        assert operation["responses"]["200"]["description"]
        declared = [entry["name"] for entry in operation.get("parameters", []) if entry["in"] == "path"]
        assert declared == re.findall(r"{(\w+)}", path)
        assert ("requestBody" in operation) == (method == "post")


def test_every_reference_leads_somewhere(spec: dict[str, Any]) -> None:
    def references(node: object) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if "$ref" in node else []
            return own + [ref for entry in node.values() for ref in references(entry)]
        return [ref for entry in node for ref in references(entry)] if isinstance(node, list) else []

    found = references(spec)
    assert found
    for reference in found:
        name = reference.removeprefix("#/components/schemas/")
        assert name in spec["components"]["schemas"]


def test_limits_and_unknown_fields_are_declared(spec: dict[str, Any]) -> None:
    schema = spec["components"]["schemas"]["RecommendRequest"]
    assert schema["additionalProperties"] is False
    assert (schema["properties"]["k"]["minimum"], schema["properties"]["k"]["maximum"]) == (1, wire.MAX_K)
    assert schema["properties"]["exclude"]["maxItems"] == wire.MAX_IDS


def test_examples_follow_the_schema_and_are_answered_as_declared(spec: dict[str, Any], client: httpx.Client) -> None:
    for path, entry in spec["paths"].items():
        if "post" not in entry or path.endswith("/stream"):  # events are looked at in test_stream
            continue
        content = entry["post"]["requestBody"]["content"]["application/json"]
        assert check(content["example"], content["schema"], spec) == []
        answer = client.post(path, json=content["example"])
        assert answer.status_code == 200, answer.text
        assert check(answer.json(), answers(spec, path, "post", 200), spec) == []


def test_full_answers_and_errors_are_as_declared(spec: dict[str, Any], client: httpx.Client) -> None:
    full = {"items": ["i1"], "trace": True, "explain": True}
    assert check(client.post("/recommend", json=full).json(), answers(spec, "/recommend", "post", 200), spec) == []
    unknown = client.post("/rank", json={"candidates": ["i1", "x"]})
    assert check(unknown.json(), answers(spec, "/rank", "post", 200), spec) == []
    refused = client.post("/feedback", json=event("", "i1"))
    assert check(refused.json(), answers(spec, "/feedback", "post", refused.status_code), spec) == []
    similar = "/items/{id}/similar"
    assert check(client.get("/items/i1/similar").json(), answers(spec, similar, "get", 200), spec) == []
    assert check(client.get("/items/x/similar").json(), answers(spec, similar, "get", 404), spec) == []
    for path in ("/health/live", "/health/ready"):
        assert check(client.get(path).json(), answers(spec, path, "get", 200), spec) == []


def test_the_checker_itself_finds_faults(spec: dict[str, Any]) -> None:
    schema = {"$ref": "#/components/schemas/RankedResponse"}
    good = {"took_ms": 1, "model": "m", "model_version": "v", "items": [{"item": "a", "score": None}]}
    assert check(good, schema, spec) == []
    assert check({**good, "more": 1}, schema, spec) == ["$: more is undeclared"]
    assert check({**good, "items": [{"item": 3, "score": 1}]}, schema, spec) == ["$.items[0].item: 3 is no string"]
