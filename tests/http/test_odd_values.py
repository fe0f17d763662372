"""Every field of every generating door with every odd value: a 200 or a 400, and nobody else notices."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from runtime.http.schema.chat import ChatCompletionRequest
from runtime.http.schema.completion import CompletionRequest
from runtime.http.schema.messages import CountTokensRequest, MessagesRequest
from runtime.http.schema.responses import ResponsesRequest
from runtime.text.output_parsing import OutputParsing
from tests.http.door import MODEL, open_door

MESSAGES: Any = [{"role": "user", "content": "hi"}]
DOORS: dict[str, tuple[type[msgspec.Struct], dict[str, Any]]] = {
    "/v1/chat/completions": (ChatCompletionRequest, {"messages": MESSAGES, "max_tokens": 2}),
    "/v1/completions": (CompletionRequest, {"prompt": "hi", "max_tokens": 2}),
    "/v1/responses": (ResponsesRequest, {"input": "hi", "max_output_tokens": 2}),
    "/v1/messages": (MessagesRequest, {"model": MODEL, "messages": MESSAGES, "max_tokens": 2}),
    "/v1/messages/count_tokens": (CountTokensRequest, {"model": MODEL, "messages": MESSAGES}),
}
DEEP = b"[" * 5000 + b"]" * 5000
VALUES = [
    *[b"null", b"true", b"false", b"0", b"-1", b"1", b"2", b"0.5", b"1e400", b"-0.0", b"NaN", b"Infinity"],
    *[b"1" * 5000, b"18446744073709551616", b"-9223372036854775809", b'""', b'"x"', b'"\\u0000"', b'"\\ud800"', b'"\xff"'],
    *['"\u202e🎭"'.encode(), b'"' + b"x" * 100_000 + b'"', b"[]", b"{}", b"[null]", b"[[]]", b"[{}]", b'[""]', b"[-1]"],
    *[b"[18446744073709551616]", b'{"": null}', b'{"type": null}', b'{"type": "function"}', b'{"type": "text"}', DEEP],
    *[b'[{"type": "function", "function": {"name": "f", "parameters": {"x": 18446744073709551616}}}]'],
    *[b'[{"type": "function", "name": "f", "parameters": {"x": 18446744073709551616}}]', b'{"x": 18446744073709551616}'],
    *[b'[{"name": "f", "input_schema": {"x": 18446744073709551616}}]', b'[{"role": "user", "content": [{"type": "text"}]}]'],
    *[b'[{"role": "assistant", "content": []}]', b'[{"role": "assistant", "content": ""}]', b'[{"type": "reasoning"}]'],
]


def body_with(good: dict[str, Any], name: str, value: bytes) -> bytes:
    """`good` with one field replaced by raw JSON, which need not be valid."""
    rest = msgspec.json.encode({key: item for key, item in good.items() if key != name})
    return rest[:-1] + (b"," if len(rest) > 2 else b"") + b'"' + name.encode() + b'":' + value + b"}"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", DOORS)
def test_odd_values(path: str, stream: bool) -> None:
    kind, good = DOORS[path]

    async def main() -> None:
        async with open_door(output_parsing=OutputParsing("qwen25", "qwen3"), request_timeout=5.0) as door:
            base = good if "count" in path else good | {"stream": stream}
            for field in msgspec.structs.fields(kind):
                for value in VALUES[:: 4 if stream else 1]:  # what is refused does not depend on it
                    if (
                        field.name in ("max_tokens", "max_completion_tokens", "max_output_tokens", "ignore_eos")
                        and value == b"null"
                    ):
                        continue  # the scripted engine would never end
                    body = body_with(base | {"model": MODEL}, field.name, value)
                    answer = await door.post(path, body)
                    what = (field.name, value[:60], answer.status, answer.body[:300])
                    assert answer.status in (200, 400, 404), what
                    assert answer.status != 404 or field.name == "model", what
                    if answer.status != 200:
                        assert len(answer.body) < 1200, what
            await door.assert_unharmed()

    asyncio.run(main())
