"""How `/v1/chat/completions` writes replies that are text and nothing else: the common case, and the cheap one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from runtime.http.openai_format import NO_FINISH, OpenAiFormat, ending, finished
from runtime.http.reply import joined
from runtime.messages import TextRow

ROLE = b'"delta":{"role":"assistant","content":"","reasoning_content":null}'
END = b'"delta":{"content":null,"reasoning_content":null}'


class ChatFormat(OpenAiFormat):
    """In a stream the role, each text and the ending are chunks of their own."""

    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"

    def choice(self, index: int, rows: Sequence[TextRow]) -> dict[str, Any]:
        row = joined(list(rows))
        message = {"role": "assistant", "content": row.text, "reasoning_content": None}
        return {"message": message, "logprobs": None, **ending(row.finish)}

    def choices(self, index: int, row: TextRow, is_first: bool) -> list[bytes]:
        choices = [ROLE + NO_FINISH] if is_first else []
        if row.text:
            choices.append(b'"delta":{"content":' + orjson.dumps(row.text) + b',"reasoning_content":null}' + NO_FINISH)
        if row.finish is not None:
            choices.append(END + finished(row.finish))
        return choices
