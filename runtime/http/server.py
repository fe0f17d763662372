"""The Http actor: receives what the pipeline says about open requests and hands it to the table of replies.

Receives Tokenized, TextBatch, RequestFailed, EngineLost and PeerRestarted; sends nothing itself. It has no state, so that it
can be restarted at any time; the replies live in `Replies`, which the composition root owns. Draining is not its business
either: a handler that waited for the last request would keep the results of that request out of its own mailbox.
"""

from __future__ import annotations

from runtime.actors.actor import Actor, receives
from runtime.http.replies import Replies
from runtime.messages import EngineLost, PeerRestarted, RequestFailed, TextBatch, Tokenized


class Http(Actor):
    def __init__(self, replies: Replies) -> None:
        self._replies = replies

    @receives(TextBatch)
    async def text_batch(self, batch: TextBatch) -> None:
        self._replies.deliver(batch)

    @receives(RequestFailed)
    async def request_failed(self, failed: RequestFailed) -> None:
        self._replies.fail(failed)

    @receives(Tokenized)
    async def tokenized(self, message: Tokenized) -> None:
        self._replies.note_prompt(message)

    @receives(EngineLost)
    async def engine_lost(self, lost: EngineLost) -> None:
        self._replies.lose_all(lost.reason)

    @receives(PeerRestarted)
    async def peer_restarted(self, peer: PeerRestarted) -> None:
        self._replies.lose_all(f"the {peer.name} restarted")
