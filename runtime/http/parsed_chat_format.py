"""How `/v1/chat/completions` writes replies with reasoning, tool calls or log probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from runtime.http.chat_format import END, ROLE, ChatFormat
from runtime.http.openai_format import NO_FINISH, Head, ending
from runtime.http.openai_logprobs import chat_logprobs
from runtime.http.parsed_output import ParsedOutput
from runtime.http.reply import joined
from runtime.messages import Finish, TextRow
from runtime.pieces import CallArguments, CallBegin, Piece, ReasoningPiece, TextPiece

NO_CONTENT = b'"delta":{"content":"","reasoning_content":null}'


class ParsedChatFormat(ChatFormat):
    """Each piece is a chunk. Log probabilities go with the first chunk of their row.

    `buffers_reasoning` holds all reasoning back until it is complete.
    """

    joins_rows = False

    def __init__(
        self,
        head: Head,
        make_output: Callable[[], ParsedOutput],
        *,
        has_logprobs: bool = False,
        buffers_reasoning: bool = False,
    ) -> None:
        super().__init__(head)
        self._make_output = make_output
        self._has_logprobs = has_logprobs
        self._buffers_reasoning = buffers_reasoning
        self._thinking: dict[int, bool] = {}
        self._outputs: dict[int, ParsedOutput] = {}

    def num_reasoning_tokens(self, index: int) -> int:
        return self._output(index).num_reasoning_tokens

    def choice(self, index: int, rows: Sequence[TextRow]) -> dict[str, Any]:
        output = self._output(index)
        for row in rows:
            output.feed(row)
        whole = joined(list(rows))
        return {
            "message": _message(output),
            "logprobs": chat_logprobs(whole.logprobs, whole.token_texts) if self._has_logprobs else None,
            **_ending(whole.finish, output),
        }

    def choices(self, index: int, row: TextRow, is_first: bool) -> list[bytes]:
        output = self._output(index)
        deltas = [_delta(piece) for piece in self._shown(index, output, output.feed(row), row)]
        if row.logprobs is not None and not deltas:
            deltas.append(NO_CONTENT)
        chunks = [ROLE + NO_FINISH] if is_first else []
        chunks += [delta + (NO_FINISH if number else self._logprobs(row)) for number, delta in enumerate(deltas)]
        if row.finish is not None:
            chunks.append(END + b',"logprobs":null,' + orjson.dumps(_ending(row.finish, output))[1:] + b"]")
        return chunks

    def _output(self, index: int) -> ParsedOutput:
        if index not in self._outputs:
            self._outputs[index] = self._make_output()
        return self._outputs[index]

    def _shown(self, index: int, output: ParsedOutput, pieces: list[Piece], row: TextRow) -> list[Piece]:
        """`pieces`, but with all reasoning in one before the first of the answer, if it is buffered."""
        if not self._buffers_reasoning:
            return pieces
        answer: list[Piece] = [piece for piece in pieces if not isinstance(piece, ReasoningPiece)]
        is_thinking = self._thinking.get(index, True)
        if is_thinking and (answer or row.finish is not None):
            self._thinking[index] = False
            return [ReasoningPiece(output.reasoning), *answer] if output.reasoning else answer
        return answer if is_thinking else pieces

    def _logprobs(self, row: TextRow) -> bytes:
        if not self._has_logprobs or row.logprobs is None:
            return NO_FINISH
        written = orjson.dumps(chat_logprobs(row.logprobs, row.token_texts))
        return b',"logprobs":' + written + b',"finish_reason":null,"matched_stop":null}]'


def _delta(piece: Piece) -> bytes:
    """What a piece adds to the message. A call's first delta has its id and name, the others only arguments."""
    match piece:
        case TextPiece(text):
            return b'"delta":{"content":' + orjson.dumps(text) + b',"reasoning_content":null}'
        case ReasoningPiece(text):
            return b'"delta":{"content":null,"reasoning_content":' + orjson.dumps(text) + b"}"
        case CallBegin(index, name, call_id):
            call = {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
        case CallArguments(index, text):
            call = {"index": index, "function": {"arguments": text}}
    return b'"delta":{"content":null,"reasoning_content":null,"tool_calls":[' + orjson.dumps(call) + b"]}"


def _message(output: ParsedOutput) -> dict[str, Any]:
    """`tool_calls` only if there are any."""
    content = output.text or (None if output.calls else "")
    message: dict[str, Any] = {"role": "assistant", "content": content, "reasoning_content": output.reasoning or None}
    if output.calls:
        message["tool_calls"] = [
            {"index": index, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for index, call in enumerate(output.calls)
        ]
    return message


def _ending(finish: Finish | None, output: ParsedOutput) -> dict[str, Any]:
    """An output that stopped by itself after a call waits for the call's result."""
    last = ending(finish)
    return last | {"finish_reason": "tool_calls"} if output.calls and last["finish_reason"] == "stop" else last
