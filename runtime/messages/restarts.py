"""What the supervisor tells those who live on when others are restarted."""

from __future__ import annotations

from runtime.messages.message import Message


class EngineLost(Message, frozen=True, kw_only=True):
    """Supervisor → Http, Detokenizer: the engine group restarted; every open request is gone."""

    reason: str


class PeerRestarted(Message, frozen=True, kw_only=True):
    """Supervisor → Http: the detokenizer or the door lost the text of every open request, so they fail."""

    name: str
