"""A reply: the rows of one sequence between the Http actor that receives them and the one task that reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import chain

import msgspec

from runtime.errors import RequestError
from runtime.messages import AbortCause, Finish, TextRow, TokenLogprobs


class Bell:
    """Wakes the one task that reads some replies, and says which of them have something.

    A reply rings when `min_tokens` tokens wait in it or when it ends, so a reader that wants only whole results is woken once.
    """

    def __init__(self, min_tokens: int = 1) -> None:
        self.min_tokens = min_tokens
        self.num_rings = 0
        self._ready: list[Reply] = []
        self._waiter: asyncio.Future[None] | None = None

    def ring(self, reply: Reply) -> None:
        """Say that `reply` has something."""
        self.num_rings += 1
        self._ready.append(reply)
        self.wake()

    def wake(self) -> None:
        """Wake the reader although no reply may be ready."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> list[Reply]:
        """The replies to `take` from; empty after a bare `wake`."""
        if not self._ready:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        ready, self._ready = self._ready, []
        return ready


class Reply:
    """One sequence on its way to a client. Iterate it for its rows; the last one has `finish` set.

    Rows that arrive while the reader is busy are handed over as one. The iteration raises the `RequestError` of a request that
    failed. `push` and `break_off` are for the table of open requests, which also decides when `is_open` ends.
    """

    def __init__(
        self,
        request_id: int,
        bell: Bell,
        cancel: Callable[[Reply, AbortCause], None],
        *,
        arrived: float,
        label: str = "",
        is_streaming: bool = False,
        is_counted: bool = True,
    ) -> None:
        self.request_id = request_id
        self.label = label
        """The name by which clients may abort it; not unique."""
        self.arrived = arrived
        self.is_streaming = is_streaming
        self.is_counted = is_counted
        self.is_open = True
        self.first_row_at: float | None = None
        self.deadline: asyncio.TimerHandle | None = None
        self._bell = bell
        self._cancel = cancel
        self._rows: list[TextRow] = []
        self._num_pending_tokens = 0
        self._error: RequestError | None = None
        self._has_rung = False
        self._is_read = False
        self._last_row = _nothing(request_id)

    @property
    def last_row(self) -> TextRow:
        """The newest row, read or not, for its counts; all 0 before the first."""
        return self._last_row

    def __aiter__(self) -> Reply:
        return self

    async def __anext__(self) -> TextRow:
        if self._is_read:
            raise StopAsyncIteration
        while not self._has_rung:
            await self._bell.wait()
        return self.take()

    def take(self) -> TextRow:
        """What arrived since the last call, as one row; to be called after the bell rang for it. Raises `RequestError`."""
        return joined(self.take_rows())

    def take_rows(self) -> list[TextRow]:
        """The same as it arrived, a row for each step, for readers who count tokens by what they say."""
        rows, self._rows = self._rows, []
        self._num_pending_tokens = 0
        self._has_rung = False
        if self._error is not None:
            self._is_read = True
            raise self._error
        self._is_read = rows[-1].finish is not None
        return rows

    def cancel(self, cause: AbortCause) -> None:
        """End the request if it is still open; its reader gets a last row with finish `abort`."""
        if self.is_open:
            self._cancel(self, cause)

    def push(self, row: TextRow, now: float) -> None:
        """Add a row that arrived `now`, on the monotonic clock."""
        if self.first_row_at is None:
            self.first_row_at = now
        self._last_row = row
        self._rows.append(row)
        self._num_pending_tokens += len(row.token_ids)
        if row.finish is not None or self._num_pending_tokens >= self._bell.min_tokens:
            self._ring()

    def note_prompt(self, num_prompt_tokens: int) -> None:
        """The count is known before there is a row, which may come first or never."""
        if self.first_row_at is None:
            self._last_row = msgspec.structs.replace(self._last_row, num_prompt_tokens=num_prompt_tokens)

    def push_abort(self) -> None:
        """Add the last row of a request that was cancelled."""
        last = self._last_row
        self._last_row = TextRow(
            request_id=self.request_id,
            text="",
            token_ids=(),
            num_completion_tokens=last.num_completion_tokens,
            num_prompt_tokens=last.num_prompt_tokens,
            num_cached_tokens=last.num_cached_tokens,
            finish=Finish("abort"),
        )
        self._rows.append(self._last_row)
        self._ring()

    def break_off(self, error: RequestError) -> None:
        """End with an error; rows that were not read yet are dropped."""
        self._error = error
        self._ring()

    def _ring(self) -> None:
        if not self._has_rung:
            self._has_rung = True
            self._bell.ring(self)


def joined(rows: list[TextRow]) -> TextRow:
    """One row that says what `rows`, in order and at least one, say together."""
    last = rows[-1]
    if len(rows) == 1:
        return last
    return TextRow(
        request_id=last.request_id,
        text="".join([row.text for row in rows]),
        token_ids=tuple(chain.from_iterable(row.token_ids for row in rows)),
        num_completion_tokens=last.num_completion_tokens,
        num_prompt_tokens=last.num_prompt_tokens,
        num_cached_tokens=last.num_cached_tokens,
        finish=last.finish,
        logprobs=_joined_logprobs([row.logprobs for row in rows]),
        prompt_logprobs=_joined_logprobs([row.prompt_logprobs for row in rows]),
        token_texts={token_id: text for row in rows for token_id, text in row.token_texts.items()},
        hidden_states=_joined_states([row.hidden_states for row in rows]),
    )


def _joined_logprobs(parts: list[TokenLogprobs | None]) -> TokenLogprobs | None:
    known = [part for part in parts if part is not None]
    if not known:
        return None
    return TokenLogprobs(
        token_ids=tuple(chain.from_iterable(part.token_ids for part in known)),
        values=tuple(chain.from_iterable(part.values for part in known)),
        top=tuple(chain.from_iterable(part.top for part in known)),
        chosen=tuple(chain.from_iterable(part.chosen for part in known)),
    )


def _joined_states(parts: list[tuple[tuple[float, ...], ...] | None]) -> tuple[tuple[float, ...], ...] | None:
    known = [part for part in parts if part is not None]
    return tuple(chain.from_iterable(known)) if known else None


def _nothing(request_id: int) -> TextRow:
    return TextRow(
        request_id=request_id, text="", token_ids=(), num_completion_tokens=0, num_prompt_tokens=0, num_cached_tokens=0
    )
