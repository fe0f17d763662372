"""Requests that wait for a grammar, and answers that came before their request did."""

from __future__ import annotations

from runtime.errors import Failure
from runtime.scheduling.request import Request, Stage

MAX_ANSWERS = 4096
"""Answers kept, newest last: a mailbox of requests is the most that can be on the way."""


class GrammarAnswers:
    """`None` as an answer means that the grammar is ready."""

    def __init__(self) -> None:
        self._answers: dict[str, Failure | None] = {}
        self._waiting: dict[str, list[Request]] = {}

    def is_known(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> Failure | None:
        return self._answers[key]

    def wait(self, request: Request, key: str) -> None:
        self._waiting.setdefault(key, []).append(request)

    def answer(self, key: str, failure: Failure | None) -> list[Request]:
        """Keep the answer and return the requests that waited for it and still do."""
        self._answers.pop(key, None)
        self._answers[key] = failure
        if len(self._answers) > MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]
        return [request for request in self._waiting.pop(key, ()) if request.stage is Stage.WAITING]

    def forget(self, key: str | None) -> None:
        """Requests with this grammar wait for another answer: what was ready was dropped."""
        if key is not None:
            self._answers.pop(key, None)

    def num_waiting(self) -> int:
        """Requests that wait for their grammar."""
        return sum(request.stage is Stage.WAITING for requests in self._waiting.values() for request in requests)

    def is_awaited_by(self, request: Request) -> bool:
        return any(request in requests for requests in self._waiting.values())
