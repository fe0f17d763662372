"""How `/v1/completions` writes its replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from runtime.http.openai_format import NO_FINISH, OpenAiFormat, ending, finished
from runtime.http.reply import joined
from runtime.messages import TextRow


class CompletionFormat(OpenAiFormat):
    """In a stream every chunk has text, and the last one also the ending."""

    object_name = "text_completion"
    chunk_name = "text_completion"

    def choice(self, index: int, rows: Sequence[TextRow]) -> dict[str, Any]:
        row = joined(list(rows))
        return {"text": row.text, "logprobs": None, **ending(row.finish)}

    def choices(self, index: int, row: TextRow, is_first: bool) -> list[bytes]:
        if not row.text and row.finish is None:
            return []
        return [b'"text":' + orjson.dumps(row.text) + (finished(row.finish) if row.finish else NO_FINISH)]
