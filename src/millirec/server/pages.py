"""`/docs`: the HTTP interface for people. One page made on the server; it fetches nothing from anywhere."""

from html import escape
from typing import Any

import msgspec

from millirec.server.operation import Operation

_CSS = """
body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#1d2330;background:#fff}
h1{font-size:1.6rem}h2{font-size:1.1rem;margin:2.2rem 0 .3rem;border-top:1px solid #dde1e8;padding-top:1.2rem}
code,pre{font:13px/1.45 ui-monospace,monospace}pre{background:#f4f6f9;padding:.7rem .9rem;overflow-x:auto;
border-radius:6px}table{border-collapse:collapse;width:100%;font-size:14px}td,th{text-align:left;padding:.25rem .6rem
.25rem 0;border-bottom:1px solid #eceff3;vertical-align:top}.m{color:#0a6b3d;font-weight:600}.q{color:#667}
@media(prefers-color-scheme:dark){body{background:#14171d;color:#dfe4ec}pre{background:#1e232c}
h2{border-color:#2b313c}td,th{border-color:#262c36}.m{color:#5fd39a}.q{color:#99a}}
"""


def docs_page(operations: tuple[Operation, ...], spec: dict[str, Any]) -> str:
    """The whole page as HTML."""
    parts = [_operation(operation, spec) for operation in operations]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>millirec</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_CSS}</style></head><body><h1>millirec</h1>"
        "<p>Recommendations over HTTP, JSON in and out. The same in machine-readable form: "
        '<a href="/openapi.json">/openapi.json</a>. Every error says what is wrong and what to do about it: '
        '<code>{"error": {"code", "message", "mend", "field"?}}</code>.</p>'
        f"{''.join(parts)}</body></html>"
    )


def _operation(operation: Operation, spec: dict[str, Any]) -> str:
    entry = spec["paths"][operation.path][operation.method.lower()]
    head = f'<h2><span class="m">{operation.method}</span> <code>{escape(operation.path)}</code></h2>'
    text = f"<p>{escape(operation.summary)}</p><pre>{escape(_curl(operation))}</pre>"
    fields = ""
    if operation.request is not None:
        fields = _fields("takes", entry["requestBody"]["content"]["application/json"]["schema"], spec)
    if operation.response is not str:
        (answer,) = [content["schema"] for content in entry["responses"]["200"]["content"].values()]
        fields += _fields("answers", answer, spec)
    statuses = ", ".join(f"{code} ({escape(said['description'])})" for code, said in entry["responses"].items())
    return f'{head}{text}{fields}<p class="q">{statuses}</p>'


def _curl(operation: Operation) -> str:
    if operation.method == "GET":
        return f"curl http://127.0.0.1:8000{operation.example}"
    return (
        f"curl http://127.0.0.1:8000{operation.path} -H 'content-type: application/json' \\\n  -d '{operation.example}'"
    )


def _fields(word: str, schema: dict[str, Any], spec: dict[str, Any]) -> str:
    return "".join(_table(word, name, spec["components"]["schemas"][name]) for name in _names(schema))


def _names(schema: dict[str, Any]) -> list[str]:
    """The structs that a schema refers to, each once."""
    if "$ref" in schema:
        return [schema["$ref"].rsplit("/", 1)[1]]
    inner = [*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())]
    return list(dict.fromkeys(name for part in inner for name in _names(part)))


def _table(word: str, name: str, struct: dict[str, Any]) -> str:
    required = struct.get("required", [])
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code>{'' if field in required else ' <span class=q>optional</span>'}</td>"
        f"<td>{escape(_kind(schema))}</td></tr>"
        for field, schema in struct["properties"].items()
    )
    about = escape(struct.get("description", "").split("\n\n")[0])
    return f"<p><b>{word} {escape(name)}</b> <span class=q>{about}</span></p><table>{rows}</table>"


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[1])
    if "anyOf" in schema:
        return " or ".join(_kind(part) for part in schema["anyOf"] if part.get("type") != "null")
    if "enum" in schema:
        return " or ".join(msgspec.json.encode(value).decode() for value in schema["enum"])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        kind = f"list of {_kind(schema.get('items', {}))}"
    limits = [f"{key} {schema[key]}" for key in ("minimum", "maximum", "exclusiveMinimum", "maxItems") if key in schema]
    return f"{kind} ({', '.join(limits)})" if limits else kind
