"""A bundle: the replies to one HTTP request, opened, read and ended together.

Invariant: after the `with` block none of its replies is open, however the block was left, so that a client that goes away
takes its requests with it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType

from runtime.errors import RequestError
from runtime.http.generation import Generation
from runtime.http.replies import Replies
from runtime.http.reply import Bell, Reply
from runtime.messages import TextRow

WHOLE = sys.maxsize
"""Tokens that no reply reaches, so that its bell rings only at its end."""


class Bundle:
    """Submits all `generations` or none; raises what `Replies.submit` raises. Rows carry the index of their generation.

    `stream_interval` is the number of tokens after which rows are handed over; None waits for whole results. `joins_rows` False
    leaves the rows of one sequence as they were made, one for each step, however late they are read.
    """

    def __init__(
        self,
        replies: Replies,
        generations: Sequence[Generation],
        stream_interval: int | None = None,
        *,
        joins_rows: bool = True,
    ) -> None:
        self._joins_rows = joins_rows
        self.bell = Bell(WHOLE if stream_interval is None else stream_interval)
        self._num_unread = len(generations)
        self._replies: dict[Reply, int] = {}
        try:
            for index, generation in enumerate(generations):
                self._replies[self._submit(replies, generation)] = index
        except RequestError:
            self.cancel()
            raise

    @property
    def is_read(self) -> bool:
        """Whether the last row of every reply was returned."""
        return self._num_unread == 0

    async def rows(self) -> list[tuple[int, TextRow]]:
        """Wait for news: (index, row) pairs; none after a bare wake of the bell. Raises `RequestError`."""
        ready = [(self._replies[reply], row) for reply in await self.bell.wait() for row in self._take(reply)]
        self._num_unread -= sum(row.finish is not None for _, row in ready)
        return ready

    def _take(self, reply: Reply) -> list[TextRow]:
        return [reply.take()] if self._joins_rows else reply.take_rows()

    async def all_rows(self) -> list[list[TextRow]]:
        """Wait for the end: for each generation its rows, of which there is one if they are joined. Raises `RequestError`."""
        results: list[list[TextRow]] = [[] for _ in self._replies]
        while not self.is_read:
            for index, row in await self.rows():
                results[index].append(row)
        return results

    async def whole(self) -> list[TextRow]:
        """Wait for the end: one row per generation with all of its text. Raises `RequestError`."""
        results: dict[int, TextRow] = {}
        while not self.is_read:
            results |= dict(await self.rows())
        return [results[index] for index in range(len(results))]

    def cancel(self) -> None:
        """End what is still open on behalf of a client that no longer waits."""
        for reply in self._replies:
            reply.cancel("disconnect")

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.cancel()

    def _submit(self, replies: Replies, generation: Generation) -> Reply:
        return replies.submit(generation, is_streaming=self.bell.min_tokens != WHOLE, bell=self.bell)

    def outcome(self) -> str:
        """For the log: how each reply ended and what it used."""
        return "; ".join(_outcome(reply) for reply in self._replies)


def _outcome(reply: Reply) -> str:
    row = reply.last_row
    end = "left early" if reply.is_open else row.finish.type if row.finish else "failed"
    return f"{end}, {row.num_prompt_tokens} prompt tokens, {row.num_completion_tokens} completion tokens"
