"""Sessions: the token ids of earlier requests, so that a client sends only what is new.

A session is a tree of finished requests. A request names the one it continues and gets its tokens, prompt and output, before
its own. Pure state: no clock, no I/O. Invariant: `num_tokens` is what all sessions hold together, and no request begins that
would take it beyond its bound.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from runtime.errors import Conflict, InvalidRequest, Overloaded

MAX_SESSIONS = 1024
MAX_TOKENS = 2**22
IDLE_S = 3600.0
"""After this a session that nobody used makes room for a new one."""


@dataclass
class Turn:
    """A request of a session. `token_ids` are those of its prompt, and once it ended also of its output."""

    parent: str | None
    token_ids: array[int]
    num_prompt_tokens: int
    is_finished: bool = False


@dataclass
class Session:
    used_at: float
    idle_s: float
    turns: dict[str, Turn] = field(default_factory=dict)

    def below(self, rid: str | None) -> list[str]:
        """The turns that continue `rid`, directly or not; all turns if it is None."""
        found: dict[str, None] = {}
        for name, turn in self.turns.items():  # parents come before what continues them
            if rid is None or turn.parent == rid or turn.parent in found:
                found[name] = None
        return list(found)


class Sessions:
    """All sessions of a server. Times are seconds on one clock that the caller reads."""

    def __init__(self, max_sessions: int = MAX_SESSIONS, max_tokens: int = MAX_TOKENS) -> None:
        self._max_sessions = max_sessions
        self._max_tokens = max_tokens
        self._sessions: dict[str, Session] = {}
        self.num_tokens = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, session_id: str, now: float, idle_s: float = IDLE_S) -> None:
        """Raises `InvalidRequest` if it is open already and `Overloaded` if too many are."""
        if session_id in self._sessions:
            raise InvalidRequest(f"the session {session_id!r} is open already", param="session_id")
        if len(self._sessions) >= self._max_sessions:
            self._close_idle(now)
        if len(self._sessions) >= self._max_sessions:
            raise Overloaded(f"{self._max_sessions} sessions are open, which is the most; close one", code="too_many_sessions")
        self._sessions[session_id] = Session(now, idle_s)

    def close(self, session_id: str) -> None:
        """Forget a session; one that is not open is no error."""
        session = self._sessions.pop(session_id, None)
        if session is not None:
            self._forget(session, list(session.turns))

    def history(self, session_id: str, rid: str | None, now: float, *, with_output: bool = True) -> list[int]:
        """The tokens that a request which continues `rid` begins with. Raises `InvalidRequest`."""
        session = self._find(session_id, now)
        if rid is None:
            return []
        turn = session.turns.get(rid)
        if turn is None:
            raise InvalidRequest(f"the session has no request {rid!r}", param="session_params.rid")
        if not turn.is_finished:
            raise InvalidRequest(f"the request {rid!r} has not ended", param="session_params.rid")
        return turn.token_ids.tolist() if with_output else turn.token_ids[: turn.num_prompt_tokens].tolist()

    def prune(self, session_id: str, rid: str | None, now: float) -> list[str]:
        """Forget everything that continues `rid`, or all turns if it is None. Returns those that have not ended."""
        session = self._find(session_id, now)
        names = session.below(rid)
        running = [name for name in names if not session.turns[name].is_finished]
        self._forget(session, names)
        return running

    def begin(self, session_id: str, rid: str, parent: str | None, prompt_ids: Sequence[int], now: float) -> None:
        """A request starts. Raises `Conflict` if its id is taken and `Overloaded` if there is no room for its tokens."""
        session = self._find(session_id, now)
        if rid in session.turns:
            raise Conflict(f"the session has a request {rid!r} already", param="rid")
        if self.num_tokens + len(prompt_ids) > self._max_tokens:
            raise Overloaded("the sessions hold too many tokens; close one", code="too_many_sessions")
        session.turns[rid] = Turn(parent, array("i", prompt_ids), len(prompt_ids))
        self.num_tokens += len(prompt_ids)

    def finish(self, session_id: str, rid: str, output_ids: Sequence[int]) -> None:
        """The request ended well. The session may have been closed, or the turn pruned, in the meantime."""
        session = self._sessions.get(session_id)
        turn = session.turns.get(rid) if session is not None else None
        if turn is not None:
            turn.token_ids.extend(output_ids)
            turn.is_finished = True
            self.num_tokens += len(output_ids)

    def drop(self, session_id: str, rid: str) -> None:
        """The request failed or its client left: it is as if it had never been. Finished ones stay."""
        session = self._sessions.get(session_id)
        if session is not None and rid in session.turns and not session.turns[rid].is_finished:
            self._forget(session, [rid])

    def _find(self, session_id: str, now: float) -> Session:
        session = self._sessions.get(session_id)
        if session is None:
            raise InvalidRequest(f"no session {session_id!r} is open", param="session_params.id")
        session.used_at = now
        return session

    def _forget(self, session: Session, names: Sequence[str]) -> None:
        for name in names:
            self.num_tokens -= len(session.turns.pop(name).token_ids)

    def _close_idle(self, now: float) -> None:
        idle = [name for name, session in self._sessions.items() if now - session.used_at > session.idle_s]
        for name in idle:
            self.close(name)
