"""The Http actor: receives what the pipeline says about open requests and hands it to the table of replies.

Receives TextBatch, RequestFailed, EngineLost, PeerRestarted and Drain; sends nothing itself. It has no state, so that it can be
restarted at any time; the replies live in `Replies`, which the composition root owns.

Draining takes two steps, because a handler that waited for the last request would keep that request's results in its own
mailbox: `Drain` makes the door refuse new requests and is answered at once; then the root waits outside of the actor:

    await http.ask(Drain(deadline_s=25), 5)
    drained = await replies.wait_idle(25)
"""

from __future__ import annotations

from runtime.actors.actor import Actor, receives
from runtime.http.replies import Replies
from runtime.messages import Drain, EngineLost, PeerRestarted, RequestFailed, TextBatch


class Http(Actor):
    def __init__(self, replies: Replies) -> None:
        self._replies = replies

    @receives(TextBatch)
    async def text_batch(self, batch: TextBatch) -> None:
        self._replies.deliver(batch)

    @receives(RequestFailed)
    async def request_failed(self, failed: RequestFailed) -> None:
        self._replies.fail(failed)

    @receives(EngineLost)
    async def engine_lost(self, lost: EngineLost) -> None:
        self._replies.lose_all(lost.reason)

    @receives(PeerRestarted)
    async def peer_restarted(self, peer: PeerRestarted) -> None:
        """Text on its way is lost with the detokenizer or the door; the tokenizer only holds requests without text.

        A request that reached the scheduler but has no text yet is failed too, since the door can not tell it from one that
        was lost: it is aborted and safe to send again.
        """
        reason = f"the {peer.name} restarted"
        if peer.name == "tokenizer":
            self._replies.lose_unanswered(reason)
        elif peer.name != "metrics":
            self._replies.lose_all(reason)

    @receives(Drain)
    async def drain(self, drain: Drain) -> None:
        self._replies.refuse()
