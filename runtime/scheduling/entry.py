"""The limits that a request has to keep before it may wait: the context, the pool, and the length of the queue."""

from __future__ import annotations

import math
from collections import deque

from runtime.errors import ContextLengthExceeded, InvalidRequest, Overloaded
from runtime.executor.port import ExecutorLimits
from runtime.messages import Admit

DEFAULT_MAX_QUEUED_REQUESTS = 1024
MAX_RETRY_AFTER_S = 60


def granted_tokens(admit: Admit, limits: ExecutorLimits) -> int:
    """How many tokens the request may generate. Raises `InvalidRequest` or `ContextLengthExceeded`."""
    num_prompt, wanted = len(admit.token_ids), admit.params.max_new_tokens
    context, pool = limits.context_length, limits.num_pages * limits.page_size
    if num_prompt == 0:
        raise InvalidRequest("the prompt is empty", param="prompt")
    if num_prompt > pool:
        raise ContextLengthExceeded(
            f"the prompt has {num_prompt} tokens, but the KV cache holds {pool}: shorten it or raise --max-total-tokens",
            param="prompt",
        )
    if num_prompt + 1 > context:
        raise ContextLengthExceeded(
            f"the prompt has {num_prompt} tokens, which leaves no room for output in the context of {context} tokens",
            param="prompt",
        )
    if wanted is None:
        return _room(admit, min(context, pool + 1))
    if num_prompt + wanted > context:
        raise ContextLengthExceeded(
            f"prompt ({num_prompt} tokens) and max_new_tokens ({wanted}) exceed the context of {context} tokens",
            param="max_new_tokens",
        )
    return wanted


def _room(admit: Admit, most: int) -> int:
    """What is left of `most` tokens behind the prompt. Raises `InvalidRequest` if the client insists on more."""
    room = most - len(admit.token_ids)
    if admit.params.min_new_tokens > room:
        raise InvalidRequest(f"min_new_tokens must not exceed the {room} tokens that are left", param="min_new_tokens")
    return room


class QueueLimit:
    """Refuses requests when the queue is full, and says when to come back."""

    def __init__(self, max_queued_requests: int | None) -> None:
        self._max_queued = DEFAULT_MAX_QUEUED_REQUESTS if max_queued_requests is None else max_queued_requests
        self._ended: deque[float] = deque(maxlen=64)

    def ended(self, now: float) -> None:
        """A request left the batch or the queue."""
        self._ended.append(now)

    def check(self, num_waiting: int, now: float) -> None:
        """Raise `Overloaded` if one more may not wait."""
        if num_waiting >= self._max_queued:
            raise Overloaded(
                f"the queue is full: {num_waiting} requests are waiting (--max-queued-requests)",
                retry_after=self._retry_after(num_waiting, now),
            )

    def _retry_after(self, num_waiting: int, now: float) -> int:
        """Whole seconds until the queue is through at the rate of the last ends; 1 if nothing has ended yet."""
        if not self._ended:
            return 1
        seconds = num_waiting * max(now - self._ended[0], 0.0) / len(self._ended)
        return min(max(math.ceil(seconds), 1), MAX_RETRY_AFTER_S)
