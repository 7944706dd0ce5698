"""The page of the OpenAPI document: HTML without scripts and without content from another host (ADR 0069)."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    Document = Mapping[str, Any]

_METHODS: Final = ("get", "post", "put", "patch", "delete", "head", "options")
_SCHEMAS: Final = "#/components/schemas/"
_HEAD: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
h2 {{ font-size: 1.1rem; margin-top: 2.5rem; }}
table {{ border-collapse: collapse; }}
td, th {{ text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0; }}
code, pre {{ font: .9em ui-monospace, monospace; }}
pre {{ overflow-x: auto; }}
</style>
</head>
"""


def api_page(document: Document, document_url: str) -> bytes:
    """Return the page: each operation, the headers of responses, then each schema.

    ``document_url`` is where tools find the document.
    """
    title = str(document["info"]["title"])
    base_path = next((str(server["url"]).rstrip("/") for server in document.get("servers", ())), "")
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(document['info'].get('description', ''))}",
        f'<a href="{escape(document_url)}">The OpenAPI document</a> is for tools.</p>',
        *(_scheme(scheme) for scheme in document["components"].get("securitySchemes", {}).values()),
        *(part for path, item in document["paths"].items() for part in _item(f"{base_path}{path}", item)),
        "<h2>Headers of responses</h2>",
        _table(("header", "meaning"), _headers(document["paths"].values())),
        "<h2>Schemas</h2>",
        *(_schema(name, schema) for name, schema in document["components"]["schemas"].items()),
    ]
    return (_HEAD.format(title=escape(title)) + "<body>\n" + "\n".join(body) + "\n</body>\n</html>\n").encode()


def _scheme(scheme: Document) -> str:
    name, description = str(scheme.get("scheme", "")).capitalize(), scheme.get("description", "")
    return f"<p>Authorization: {escape(name)}. {escape(description)}</p>"


def _headers(items: Iterable[Document]) -> list[tuple[str, str]]:
    """Return the name and the meaning of each header of any response."""
    responses = (
        response
        for item in items
        for method in _METHODS
        for response in item.get(method, {}).get("responses", {}).values()
    )
    found = {name: header for response in responses for name, header in response.get("headers", {}).items()}
    return [(f"<code>{escape(name)}</code>", escape(one.get("description", ""))) for name, one in found.items()]


def _item(path: str, item: Document) -> Iterator[str]:
    """Yield the sections of a path's operations."""
    for method in _METHODS:
        if method in item:
            parameters = [*item.get("parameters", ()), *item[method].get("parameters", ())]
            yield from _operation(method, path, item[method], parameters)


def _operation(method: str, path: str, operation: Document, parameters: Iterable[Document]) -> Iterator[str]:
    yield f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
    texts = [operation.get("summary", ""), operation.get("description", "")]
    if {} in operation.get("security", ()):
        texts.append("It needs no token.")
    yield f"<p>{escape(' '.join(text for text in texts if text))}</p>"
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body: {_content(media_type, content)}</p>"
    rows = [
        (f"<code>{escape(one['name'])}</code>", escape(one["in"]), escape(one.get("description", "")))
        for one in parameters
    ]
    if rows:
        yield _table(("parameter", "in", "meaning"), rows)
    yield _table(("status", "meaning", "body"), _responses(operation["responses"]))


def _responses(responses: Document) -> Iterator[tuple[str, str, str]]:
    for status, response in sorted(responses.items()):
        contents = (_content(media_type, content) for media_type, content in response.get("content", {}).items())
        yield escape(status), escape(response.get("description", "")), "<br>".join(contents)


def _content(media_type: str, content: Document) -> str:
    """Return a media type, with a link to the schema if it has a name."""
    reference = content.get("schema", {}).get("$ref", "")
    if not reference.startswith(_SCHEMAS):
        return escape(media_type)
    name = escape(reference.removeprefix(_SCHEMAS))
    return f'{escape(media_type)}, <a href="#{name}">{name}</a>'


def _schema(name: str, schema: Document) -> str:
    text = escape(json.dumps(schema, indent=2))
    return f'<h3 id="{escape(name)}">{escape(name)}</h3>\n<pre>{text}</pre>'


def _table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table. The cells of ``rows`` are HTML."""
    head = "".join(f"<th>{name}</th>" for name in names)
    lines = ("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>\n" + "\n".join(lines) + "</table>"
