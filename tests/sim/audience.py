"""The clients: each sends what its script says, reads as it says, leaves as it says, and notes how it ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from runtime.errors import Failure, RequestError
from runtime.http.bundle import Bundle
from runtime.http.generation import Generation
from runtime.http.replies import Replies
from runtime.messages import TextRow
from tests.sim.scenario import Departure, Script

EndKind = Literal["finished", "aborted", "failed", "refused"]


@dataclass
class Seat:
    """One sequence as its client saw it. `ends` has one entry once it is over, or the run is wrong."""

    script: Script
    index: int
    rows: list[TextRow] = field(default_factory=list)
    ends: list[EndKind] = field(default_factory=list)
    failure: Failure | None = None
    sent_s: float = 0.0
    ended_s: float = 0.0

    @property
    def token_ids(self) -> tuple[int, ...]:
        return tuple(token_id for row in self.rows for token_id in row.token_ids)

    @property
    def text(self) -> str:
        return "".join(row.text for row in self.rows)


class Client:
    """Plays one script. A bundle fails as a whole, so all of its seats end with the first failure."""

    def __init__(self, number: int, script: Script, replies: Replies, loop: asyncio.AbstractEventLoop) -> None:
        self._label = f"client {number}"
        self.seats = [Seat(script, index) for index in range(len(script.params))]
        self._script = script
        self._replies = replies
        self._loop = loop
        self._num_tokens = 0
        self.has_left = False

    async def play(self) -> None:
        await asyncio.sleep(self._script.at_s)
        for seat in self.seats:
            seat.sent_s = self._loop.time()
        try:
            bundle = Bundle(self._replies, self._generations(), self._script.stream_interval)
        except RequestError as error:
            self._end_all("refused", error)
            return
        departure = self._script.departure
        if departure is not None and departure.after_s is not None:
            self._loop.call_later(departure.after_s, self._leave, bundle, departure)
        try:
            with bundle:
                await self._read(bundle)
        except RequestError as error:
            self._end_all("failed", error)

    def _generations(self) -> list[Generation]:
        script = self._script
        return [
            Generation(
                prompt=script.prompt,
                params=params,
                text=script.text,
                grammar=script.grammar,
                logprobs=script.logprobs,
                returns_hidden_states=script.returns_hidden_states,
                priority=script.priority,
                label=self._label,
            )
            for params in script.params
        ]

    async def _read(self, bundle: Bundle) -> None:
        while not bundle.is_read:
            for index, row in await bundle.rows():
                self._note(self.seats[index], row)
            departure = self._script.departure
            if departure is not None and departure.after_tokens is not None and self._num_tokens >= departure.after_tokens:
                self._leave(bundle, departure)
            if self._script.read_pause_s:
                await asyncio.sleep(self._script.read_pause_s)

    def _note(self, seat: Seat, row: TextRow) -> None:
        seat.rows.append(row)
        self._num_tokens += len(row.token_ids)
        if row.finish is not None:
            seat.ends.append("aborted" if row.finish.type == "abort" else "finished")
            seat.ended_s = self._loop.time()

    def _leave(self, bundle: Bundle, departure: Departure) -> None:
        """Ends all sequences that are still open; what is left to read of each is one row. A second time has no effect."""
        self.has_left = True
        if departure.cause == "api":
            self._replies.cancel_labelled(self._label)
        else:
            bundle.cancel()

    def _end_all(self, kind: EndKind, error: RequestError) -> None:
        for seat in self.seats:
            if not seat.ends:
                seat.ends.append(kind)
                seat.failure = error.failure
                seat.ended_s = self._loop.time()
