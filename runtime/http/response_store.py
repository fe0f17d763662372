"""The responses that clients may ask for again, and the conversations that they may go on with.

They live in memory, up to a number and a size; the ones that were not asked for the longest are forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec

from runtime.errors import NotFound

MAX_RESPONSES = 1024
MAX_STORED_BYTES = 64 * 2**20


class StoredResponse(msgspec.Struct, frozen=True, kw_only=True):
    """`turns` is the conversation including this response, without instructions; `items` is its own input."""

    response: dict[str, Any]
    items: list[dict[str, Any]]
    turns: tuple[dict[str, Any], ...] = ()


class ResponseStore:
    """`max_bytes` is measured as JSON."""

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_STORED_BYTES) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._stored: OrderedDict[str, tuple[StoredResponse, int]] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._stored)

    def put(self, stored: StoredResponse) -> None:
        """Add a response or a newer state of one."""
        response_id = stored.response["id"]
        self.discard(response_id)
        size = len(msgspec.json.encode((stored.response, stored.items, stored.turns)))
        self._stored[response_id] = stored, size
        self.num_bytes += size
        while len(self._stored) > self._max_responses or self.num_bytes > self._max_bytes:
            self.discard(next(iter(self._stored)))

    def get(self, response_id: str, param: str = "response_id") -> StoredResponse:
        """Raises `NotFound`."""
        if response_id not in self._stored:
            message = f"there is no stored response {response_id[:100]!r}: it was never stored, was deleted, or is too old"
            raise NotFound(message, param=param, code="response_not_found")
        self._stored.move_to_end(response_id)
        return self._stored[response_id][0]

    def discard(self, response_id: str) -> None:
        """Forget it, if it is there."""
        _, size = self._stored.pop(response_id, (None, 0))
        self.num_bytes -= size
