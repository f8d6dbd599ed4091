"""The OpenAPI document, made from the same types that decode and encode the wire."""

from typing import Any

import msgspec

from millirec import __version__
from millirec.server.operation import Operation
from millirec.server.wire import MAX_K, ErrorResponse

_REF = "#/components/schemas/{name}"
_REASONS = {
    400: "The body is not JSON",
    401: "The token is missing or wrong",
    404: "Not found",
    409: "Not now: another change is under way, or nothing served before",
    413: "The body is too large",
    415: "The body is not declared as JSON",
    422: "A field is missing, unknown, or of the wrong type or range",
    429: "Too many requests in flight",
    503: "Not ready, stopping, or too much is waiting for the disk",
}


def document(operations: tuple[Operation, ...]) -> dict[str, Any]:
    """OpenAPI 3.1 for these addresses."""
    types = [ErrorResponse]
    for operation in operations:
        types += [kind for kind in (operation.request, operation.response) if kind not in (None, str)]
    unique = list(dict.fromkeys(types))
    schemas, components = msgspec.json.schema_components(unique, ref_template=_REF)
    by_type = dict(zip(unique, schemas, strict=True))
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, by_type)
    return {
        "openapi": "3.1.0",
        "info": {"title": "millirec", "version": __version__, "summary": "Recommendations over HTTP"},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    kind = operation.kind or ("text/plain" if operation.response is str else "application/json")
    schema = {"type": "string"} if operation.response is str else schemas[operation.response]
    out: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation.name or operation.path.strip("/").replace("/", "_").replace("{", "").replace("}", ""),
        "responses": {"200": {"description": "OK", "content": {kind: {"schema": schema}}}},
    }
    for status in operation.errors:
        body = schemas[ErrorResponse]
        if operation.path.startswith("/health"):
            body = schemas[operation.response]
        content = {"application/json": {"schema": body}}
        out["responses"][str(status)] = {"description": _REASONS[status], "content": content}
    if operation.request is not None:
        example = msgspec.json.decode(operation.example)
        content = {"application/json": {"schema": schemas[operation.request], "example": example}}
        out["requestBody"] = {"required": True, "content": content}
    if "{id}" in operation.path:
        out["parameters"] = _similar_parameters()
    return out


def _similar_parameters() -> list[dict[str, Any]]:
    k = {"type": "integer", "minimum": 1, "maximum": MAX_K, "default": 10}
    return [
        {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}},
        {"name": "k", "in": "query", "required": False, "schema": k},
    ]
