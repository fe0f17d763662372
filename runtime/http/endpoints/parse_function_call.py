"""`/parse_function_call`, and `/function_call` as it used to be called: the tool calls in a text that a model wrote."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from runtime.errors import InvalidRequest
from runtime.http.body import read_body
from runtime.http.document import Document
from runtime.http.responses import json_response
from runtime.http.schema.decoding import check_depth
from runtime.http.service import SERVICE
from runtime.pieces import CallArguments, CallBegin, Piece, ReasoningPiece, TextPiece

MAX_CHARS = 2**20
MAX_TOOLS = 128


class CalledFunction(msgspec.Struct, kw_only=True):
    """Other keys are not looked at."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class CalledTool(msgspec.Struct, kw_only=True):
    function: CalledFunction
    type: str | None = None


class ParseFunctionCall(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Without `tool_call_parser` the format of the served model."""

    text: str
    tools: list[CalledTool]
    tool_call_parser: str | None = None


class ParsedCall(msgspec.Struct, kw_only=True):
    tool_index: int
    name: str
    parameters: str


class ParsedCalls(msgspec.Struct, kw_only=True):
    normal_text: str
    calls: list[ParsedCall]


async def parse_function_call(request: web.Request) -> web.Response:
    """The text around the calls, and the calls with their arguments as JSON text."""
    body = await read_body(request, ParseFunctionCall)
    if len(body.text) > MAX_CHARS:
        raise InvalidRequest(f"text is longer than {MAX_CHARS} characters", param="text")
    if len(body.tools) > MAX_TOOLS:
        raise InvalidRequest(f"at most {MAX_TOOLS} tools are allowed", param="tools")
    tools = [_tool(tool, f"tools[{position}]") for position, tool in enumerate(body.tools)]
    pieces = request.app[SERVICE].output_parsing.parse_calls(body.text, tools, body.tool_call_parser or None)
    return json_response({"normal_text": text_of(pieces), "calls": calls_of(pieces)})


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, TextPiece | ReasoningPiece))


def calls_of(pieces: list[Piece]) -> list[dict[str, Any]]:
    """Each with its index, its name and the JSON text of its arguments."""
    names = {piece.index: piece.name for piece in pieces if isinstance(piece, CallBegin)}
    arguments = dict.fromkeys(names, "")
    for piece in pieces:
        if isinstance(piece, CallArguments):
            arguments[piece.index] += piece.text
    return [{"tool_index": index, "name": name, "parameters": arguments[index]} for index, name in names.items()]


def _tool(tool: CalledTool, param: str) -> dict[str, Any]:
    check_depth(tool.function.parameters, f"{param}.function.parameters")
    return {"type": "function", "function": msgspec.to_builtins(tool.function)}


DOCUMENTS = {parse_function_call: Document(body=ParseFunctionCall, reply=ParsedCalls)}
ROUTES = (web.post("/parse_function_call", parse_function_call), web.post("/function_call", parse_function_call))
