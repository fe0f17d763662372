"""The OpenAPI document of all routes, made from the types that read their bodies."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal

import msgspec
import orjson
from aiohttp import web

from runtime.http.admin import is_for_admins
from runtime.http.anthropic_failure import is_anthropic
from runtime.http.document import EVENTS, JSON, Document, Documents
from runtime.http.info import ServerInfo
from runtime.http.schema.generate import NativeSampling, SessionParams

REF_TEMPLATE = "#/components/schemas/{name}"
NAMED_TYPES = (NativeSampling, SessionParams)
"""Fields that are read late name these."""

EVERYWHERE = (400, 401, 417, 500, 503)
WITH_BODY = (408, 413, 415)
FOR_ADMINS = (403,)

EVENT = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
    "description": "One of the server-sent events.",
}

_PATH_PARAMETER = re.compile(r"{(\w+)(?::[^}]*)?}")
_SENTENCE = re.compile(r"(.+?[.;])(?:\s|$)", re.DOTALL)


class ErrorDetail(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(msgspec.Struct):
    """What every error looks like."""

    error: ErrorDetail


class ClaudeErrorDetail(msgspec.Struct):
    type: str
    message: str


class ClaudeErrorReply(msgspec.Struct):
    """What an error looks like in Anthropic's API."""

    error: ClaudeErrorDetail
    type: Literal["error"] = "error"


class Description:
    """The document of an application, made when somebody first asks, since that takes a while."""

    def __init__(self, routes: Sequence[web.RouteDef], documents: Documents, info: ServerInfo) -> None:
        self._routes = routes
        self._documents = documents
        self._info = info

    @functools.cached_property
    def json(self) -> bytes:
        return orjson.dumps(openapi(self._routes, self._documents, self._info))


DESCRIPTION = web.AppKey("description", Description)


def openapi(routes: Iterable[web.RouteDef], documents: Documents, info: ServerInfo) -> dict[str, Any]:
    """The document, in OpenAPI 3.1."""
    operations = [(route, documents.get(inspect.unwrap(route.handler), Document())) for route in routes]
    types = _types(document for _, document in operations)
    schemas, components = msgspec.json.schema_components(types, ref_template=REF_TEMPLATE)
    by_type = dict(zip(map(id, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route, document in operations:
        path = _PATH_PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, document, by_type)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Callboard", "version": info.version},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
    }


def _types(documents: Iterable[Document]) -> list[Any]:
    """Each once: they are told apart by identity, since not all kinds of types can be keys."""
    found: dict[int, Any] = {id(kind): kind for kind in (*NAMED_TYPES, ErrorReply, ClaudeErrorReply)}
    for document in documents:
        for kind in (document.body, document.reply):
            if kind is not None and not isinstance(kind, Mapping):
                found[id(kind)] = kind
    return list(found.values())


def _operation(route: web.RouteDef, document: Document, by_type: Mapping[int, Any]) -> dict[str, Any]:
    text = inspect.getdoc(route.handler) or inspect.getdoc(inspect.getmodule(inspect.unwrap(route.handler))) or ""
    sentence = _SENTENCE.match(text)
    operation: dict[str, Any] = {
        "summary": sentence[1] if sentence else text,
        "operationId": _operation_id(route),
        "responses": _responses(route, document, by_type),
    }
    if parameters := _parameters(route, document):
        operation["parameters"] = parameters
    if document.body is not None:
        operation["requestBody"] = {
            "required": not document.is_body_optional,
            "content": {document.body_content_type: {"schema": by_type[id(document.body)]}},
        }
    return operation


def _operation_id(route: web.RouteDef) -> str:
    return route.method.lower() + re.sub(r"\W+", "_", _PATH_PARAMETER.sub(r"\1", route.path)).rstrip("_")


def _parameters(route: web.RouteDef, document: Document) -> list[dict[str, Any]]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PATH_PARAMETER.findall(route.path)
    ]
    return in_path + [{"name": name, "in": "query", "schema": schema} for name, schema in document.query.items()]


def _responses(route: web.RouteDef, document: Document, by_type: Mapping[int, Any]) -> dict[str, Any]:
    statuses = {*EVERYWHERE, *document.errors}
    if document.body is not None:
        statuses.update(WITH_BODY)
    if is_for_admins(route.handler):
        statuses.update(FOR_ADMINS)
    error = {JSON: {"schema": by_type[id(ClaudeErrorReply if is_anthropic(route.path) else ErrorReply)]}}
    errors = {str(status): {"description": HTTPStatus(status).phrase, "content": error} for status in sorted(statuses)}
    return {"200": _success(document, by_type)} | errors


def _success(document: Document, by_type: Mapping[int, Any]) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "OK"}
    if document.content_type is not None:
        schema = document.reply if isinstance(document.reply, Mapping) else by_type.get(id(document.reply), {})
        success["content"] = {document.content_type: {"schema": schema}}
        if document.streams:
            success["content"][EVENTS] = {"schema": EVENT}
    return success
