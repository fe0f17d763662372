"""How `/generate` writes its replies: a dict per sequence, and in a stream all of its text again with each event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from runtime.clock import Clock
from runtime.messages import Finish, TextRow


class NativeFormat:
    """`labels` are the ids of the sequences, in order; `is_batch` makes the reply a list and gives events an index."""

    def __init__(self, labels: Sequence[str], clock: Clock, *, is_batch: bool) -> None:
        self._labels = labels
        self._clock = clock
        self._arrived = clock.monotonic()
        self._is_batch = is_batch
        self._so_far: dict[int, TextRow] = {}

    def whole(self, rows: Sequence[TextRow]) -> Any:
        """The reply that is not a stream; `rows` hold all text of each sequence."""
        results = [self._result(index, row) for index, row in enumerate(rows)]
        return results if self._is_batch else results[0]

    def of_row(self, index: int, row: TextRow) -> bytes:
        return b"data: " + orjson.dumps(self.event(index, row)) + b"\n\n"

    def event(self, index: int, row: TextRow) -> dict[str, Any]:
        """What a stream says when `row` has come."""
        before = self._so_far.get(index)
        if before is not None:
            row = msgspec.structs.replace(row, text=before.text + row.text, token_ids=before.token_ids + row.token_ids)
        self._so_far[index] = row
        result = self._result(index, row)
        if self._is_batch:
            result["index"] = index
        return result

    def at_end(self) -> bytes:
        return b""

    def _result(self, index: int, row: TextRow) -> dict[str, Any]:
        meta_info: dict[str, Any] = {
            "id": self._labels[index],
            "finish_reason": None if row.finish is None else _finish_reason(row.finish),
            "prompt_tokens": row.num_prompt_tokens,
            "completion_tokens": row.num_completion_tokens,
            "cached_tokens": row.num_cached_tokens,
        }
        if row.finish is not None:
            meta_info["e2e_latency"] = self._clock.monotonic() - self._arrived
        return {"text": row.text, "output_ids": row.token_ids, "meta_info": meta_info}


def _finish_reason(finish: Finish) -> dict[str, Any]:
    if finish.type == "stop":
        return {"type": "stop", "matched": finish.matched}
    if finish.type == "length":
        return {"type": "length", "length": finish.length}
    return {"type": "abort", "message": "the request was aborted", "status_code": None, "err_type": None}
