"""What the state machine wants to be sent, in order, and the results of the current step on their way to the Detokenizer."""

from __future__ import annotations

from typing import Literal

from runtime.errors import Failure
from runtime.messages import Finish, Message, RequestFailed, TextOpen, TokenBatch, TokenRow
from runtime.scheduling.request import Request

Destination = Literal["cache", "grammar", "executor", "detokenizer", "http", "metrics", "asker"]
Effect = tuple[Destination, Message]

NUM_CONTEXT_TOKENS = 8
"""Tail of the prompt that the Detokenizer gets, since the first token's text may depend on it."""


class Outbox:
    """Effects to be taken by the shell. Text is gathered until `flush_text`, so that a step is one message."""

    def __init__(self) -> None:
        self.rows: list[TokenRow] = []
        self._effects: list[Effect] = []
        self._opens: list[TextOpen] = []
        self._closes: list[int] = []

    def send(self, destination: Destination, message: Message) -> None:
        self._effects.append((destination, message))

    def take(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    def open_text(self, request: Request) -> None:
        request.is_text_open = True
        num_prompt = request.num_prompt_tokens
        self._opens.append(
            TextOpen(
                request_id=request.request_id,
                text=request.text,
                prompt_ids=request.token_ids[max(num_prompt - NUM_CONTEXT_TOKENS, 0) : num_prompt],
                num_prompt_tokens=num_prompt,
                num_cached_tokens=max(request.num_cached_tokens, 0),
            )
        )

    def add_row(self, request: Request, token_ids: tuple[int, ...], finish: Finish | None) -> None:
        if not request.is_text_open:
            self.open_text(request)
        gathering = request.gathering
        if gathering is None or (finish is not None and finish.type == "abort"):
            self.rows.append(TokenRow(request.request_id, token_ids, finish))
        else:
            self.rows.append(TokenRow(request.request_id, token_ids, finish, *gathering.take()))

    def close_text(self, request: Request) -> None:
        """The sequence ends without a result row."""
        if request.is_text_open:
            self._closes.append(request.request_id)

    def fail(self, request: Request, failure: Failure) -> None:
        self.close_text(request)
        self.send("http", RequestFailed(request_id=request.request_id, failure=failure))

    def flush_text(self, step_id: int) -> None:
        if not (self.rows or self._opens or self._closes):
            return
        batch = TokenBatch(step_id=step_id, opens=tuple(self._opens), rows=tuple(self.rows), closes=tuple(self._closes))
        self.send("detokenizer", batch)
        self.rows.clear()
        self._opens.clear()
        self._closes.clear()
