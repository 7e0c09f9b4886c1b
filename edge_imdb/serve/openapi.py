"""openapi and docs_page: the description of the server, for programs and for people."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from .. import __version__
from ..tasks import TASKS
from ..tasks.http import ERROR_TYPES, Endpoint
from .limits import Limits

_ERRORS = {
    400: "The body is not a JSON object, or the request is not HTTP.",
    401: "The API key is missing or wrong.",
    404: "There is nothing at this path.",
    408: "The headers or the body took too long to arrive.",
    413: "The body, a text, the list of texts or the answer is too large.",
    415: "The server can't decode this Content-Encoding.",
    422: "A text or a parameter can't be used.",
    429: "The queue is full. Retry-After says when to try again.",
    431: "The headers are too large.",
    500: "The model failed.",
    503: "The model is still loading, or the server is shutting down.",
}


def openapi(
    endpoints: Mapping[str, tuple[str, Endpoint]], limits: Limits, key: bool, with_page: bool
) -> dict[str, Any]:
    """An OpenAPI 3.1 document. ``endpoints`` has the task and the endpoint of each path that runs a model."""
    paths: dict[str, Any] = {}
    failures = {code: text for code, text in _ERRORS.items() if code != 404}
    for path, (_, endpoint) in endpoints.items():
        described = endpoint.describe(limits)
        request = {"type": "object", "required": [described.required], "properties": described.properties}
        paths[path] = {
            "post": {
                "summary": endpoint.summary,
                "operationId": "post_" + (path.strip("/").replace("/", "_").replace("-", "_") or "root"),
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": request, "example": described.example}},
                },
                "responses": {"200": _answer("Done.", described.answer), **_errors(failures)},
            }
        }
    names = list(dict.fromkeys(task for task, _ in endpoints.values()))
    for name in names:
        for prefix in ("", f"/models/{name}"):
            paths[f"{prefix}/health"] = _get("Ready?", {"type": "object"}, (431, 503), True)
            paths[f"{prefix}/info"] = _get("The model and the limits", {"type": "object"}, (401, 431, 503))
    if with_page:
        page = _get("The page of edge-imdb web", None, (401, 404, 431, 503))
        page["get"]["responses"]["200"]["content"] = {"text/html": {}}
        paths["/web/"] = page
    paths["/metrics"] = _get("Metrics for Prometheus", None, (401, 431))
    paths["/api-doc/openapi.json"] = _get("This document", {"type": "object"}, (401, 431))
    for path in ("/", "/ping"):
        paths.setdefault(path, {}).update(_get("Ready?", {"type": "object"}, (431, 503), True))
    moved = {"description": "To /docs, for browsers.", "headers": {"Location": {"schema": {"type": "string"}}}}
    paths["/"]["get"]["responses"]["307"] = moved
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "edge-imdb",
            "version": __version__,
            "description": "Sentiment of film reviews and words for [MASK].",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error", "error_type"],
                    "properties": {"error": {"type": "string"}, "error_type": {"enum": list(ERROR_TYPES)}},
                },
                **{name: schema for task in names for name, schema in TASKS[task].http.schemas.items()},
            }
        },
    }
    if key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _answer(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _errors(which: Mapping[int, str]) -> dict[str, Any]:
    errors = {str(code): _answer(text, {"$ref": "#/components/schemas/Error"}) for code, text in which.items()}
    for code in {"429", "503"} & errors.keys():
        errors[code]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return errors


def _get(summary: str, schema: dict[str, Any] | None, errors: tuple[int, ...], is_open: bool = False) -> dict[str, Any]:
    done = {"description": "Done.", "content": {"text/plain": {}}} if schema is None else _answer("Done.", schema)
    operation: dict[str, Any] = {"summary": summary, "responses": {"200": done}}
    operation["responses"] |= _errors({code: _ERRORS[code] for code in errors})
    if is_open:
        operation["security"] = []
    return {"get": operation}


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>edge-imdb serve</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }}
code, pre {{ font: 14px/1.5 ui-monospace, monospace; }}
pre {{ overflow-x: auto; padding: .75rem; border: 1px solid #8886; border-radius: 6px; }}
h2 {{ margin: 2rem 0 .25rem; font-size: 1.1rem; overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; }} td {{ padding: .15rem .75rem .15rem 0; vertical-align: top; }}
</style></head><body>
<h1>edge-imdb {version}</h1>
<p>Sentiment of film reviews and words for <code>[MASK]</code>.
Every path, with its schemas: <a href="api-doc/openapi.json">OpenAPI document</a>.</p>
{parts}
<h2>Errors</h2><p>Each is <code>{{"error": "a sentence", "error_type": "…"}}</code>.</p><table>{errors}</table>
</body></html>
"""


def docs_page(document: Mapping[str, Any], url: str) -> str:
    """The document as a page of HTML that loads nothing else. ``url`` is the server's address, for the examples."""
    parts = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(operation['summary'])}.</p>")
            if "requestBody" in operation:
                example = json.dumps(operation["requestBody"]["content"]["application/json"]["example"])
                parts.append(f"<pre>curl {html.escape(url + path)} -d '{html.escape(example)}'</pre>")
    errors = "".join(f"<tr><td>{code}</td><td>{html.escape(text)}</td></tr>" for code, text in _ERRORS.items())
    return _PAGE.format(version=__version__, parts="\n".join(parts), errors=errors)
