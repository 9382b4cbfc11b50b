"""The page at /docs: every route of the OpenAPI document with its examples, without a CDN."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any, Final

import msgspec

_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
body{color:#1c2330;background:#fff}
h2{margin:2.5rem 0 .25rem;border-top:1px solid #d5dae1;padding-top:1.5rem}
code,pre{font:14px/1.45 ui-monospace,monospace}
pre{background:#f3f5f8;padding:.75rem 1rem;overflow-x:auto;border-radius:6px}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;padding:.3rem .75rem .3rem 0}
td,th{border-bottom:1px solid #e6e9ee}
b.m{color:#0b5cad}
@media(prefers-color-scheme:dark){body{color:#e4e8ee;background:#14181f}pre{background:#1f2530}
h2,td,th{border-color:#333b48}b.m{color:#7db7f5}}
"""


def docs_page(document: Mapping[str, Any]) -> bytes:
    """HTML of `document`, an OpenAPI document with an example for every body."""
    info = document["info"]
    schemas = document["components"]["schemas"]
    sections = [
        _operation(path, method, operation, schemas)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]
    title = escape(info["title"])
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"
        f"<p>{escape(info['description'])} Machine-readable: "
        f"<a href=/openapi.json>/openapi.json</a>.</p>{''.join(sections)}</html>"
    ).encode()


def _operation(
    path: str, method: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]
) -> str:
    about = f"{operation['summary']}. {operation['description']}"
    heading = f"<b class=m>{method.upper()}</b> <code>{escape(path)}</code>"
    parts = [f"<h2>{heading}</h2><p>{escape(about)}</p>"]
    parameters = [
        (p["name"], p["description"], p["schema"]) for p in operation.get("parameters", ())
    ]
    if parameters:
        parts.append(_table("Parameter", parameters))
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]
        parts.append(f"<h3>Body</h3>{_json(content['example'])}")
        parts += [_fields(name, schemas[name]) for name in _within(content["schema"], schemas)]
    for status, answer in operation["responses"].items():
        (content,) = answer["content"].values()
        example = _json(content["example"]) if int(status) < 300 else ""
        parts.append(f"<h3>{status}</h3><p>{escape(answer['description'])}</p>{example}")
        if int(status) < 300:
            parts += [_fields(name, schemas[name]) for name in _within(content["schema"], schemas)]
    return "".join(parts)


def _within(schema: object, schemas: Mapping[str, Any]) -> dict[str, None]:
    """Names of the schemas that `schema` refers to, itself and nested ones, in order."""
    found: dict[str, None] = {}
    if isinstance(schema, Mapping):
        reference = schema.get("$ref")
        if isinstance(reference, str):
            name = reference.rpartition("/")[2]
            return {name: None} | _within(schemas[name], schemas)
        for value in schema.values():
            found |= _within(value, schemas)
    elif isinstance(schema, list | tuple):
        for value in schema:
            found |= _within(value, schemas)
    return found


def _fields(name: str, schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        (field + ("*" if field in required else ""), _meaning(spec), spec)
        for field, spec in schema["properties"].items()
    ]
    return _table(name, rows)


def _meaning(spec: Mapping[str, Any]) -> str:
    """Description of a field; that of an optional one may sit on its first alternative."""
    alternatives = [spec, *spec.get("anyOf", ())]
    return next((str(a["description"]) for a in alternatives if "description" in a), "")


def _table(heading: str, rows: list[tuple[str, str, Mapping[str, Any]]]) -> str:
    body = "".join(
        f"<tr><td><code>{escape(name)}</code><td>{escape(meaning)}<td><code>{escape(_kind(spec))}"
        "</code>"
        for name, meaning, spec in rows
    )
    return f"<table><tr><th>{escape(heading)}<th>Meaning<th>Type{body}</table>"


def _kind(spec: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if "anyOf" in spec:
        return " or ".join(_kind(option) for option in spec["anyOf"])
    if "$ref" in spec:
        return str(spec["$ref"]).rpartition("/")[2]
    if "enum" in spec:
        return " | ".join(map(str, spec["enum"]))
    if spec.get("type") == "array":
        items = spec.get("items") or {}
        return f"list of {_kind(items)}" if items else "list"
    bounds = [f"{sign} {spec[k]}" for k, sign in (("minimum", "≥"), ("maximum", "≤")) if k in spec]
    return " ".join([str(spec.get("type", "any")), *bounds])


def _json(example: object) -> str:
    text = msgspec.json.format(msgspec.json.encode(example), indent=2).decode()
    return f"<pre>{escape(text)}</pre>"
