"""One sequence under a grammar: its matcher, kept in step with the tokens of its slot.

Wherever the grammar leaves no choice, the tokens that have to follow are appended at once (jump-forward), so that they are
computed in one row and never sampled. They are told to the scheduler with the token before them, unless the sequence wants
something of each token's own step (`is_told_ahead` False): then each comes out as if it had been sampled.
Invariant: the matcher has accepted exactly the ids of the slot after its prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.errors import Failure, InvalidRequest, Unavailable
from runtime.messages import GRAMMAR_DROPPED, SlotOpen
from runtime.sampling.bitmask import make_mask
from runtime.sampling.matcher import Mask, Matcher, MatcherSource

GRAMMAR_LOST = Unavailable(
    "the compiled grammar of this request was dropped; it is safe to send it again", code=GRAMMAR_DROPPED, retry_after=1
).failure
DEAD_END = InvalidRequest(
    "the grammar, together with the other parameters, allows no token at this point", param="grammar", code="grammar_dead_end"
).failure


class Constraint:
    """`failure` is set once the sequence can not go on; it is then not asked for anything any more."""

    def __init__(self, opened: SlotOpen, source: MatcherSource, vocab_size: int, *, jumps_forward: bool) -> None:
        assert opened.grammar_key is not None
        self.failure: Failure | None = None
        self.is_told_ahead = opened.logprobs is None and not opened.returns_hidden_states
        self.num_told = len(opened.token_ids)
        """Ids of the slot that the scheduler knows."""
        self.mask: Mask = make_mask(vocab_size)
        self._jumps_forward = jumps_forward
        self._matcher: Matcher | None = None
        try:
            self._matcher = source.open(opened.grammar_key)
        except KeyError:
            self.failure = GRAMMAR_LOST

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow the ids of the slot."""
        return self._matcher is not None and self._matcher.is_complete

    def fill_mask(self) -> None:
        """Bring `mask` up to date."""
        if self._matcher is not None and self.failure is None:
            self._matcher.fill_mask(self.mask)

    def follow(self, token_ids: Sequence[int]) -> list[int]:
        """Accept `token_ids`, which the slot has already; returns the ids to append, since no others may follow.

        A retracted sequence comes back here with all its output. The forced runs are looked for where they were found the
        first time, so that a run of which only a part was told goes on in the same way.
        """
        ids = list(token_ids)
        position = 0
        while self.failure is None:
            for token_id in self._forced_ids():
                if position == len(ids):
                    ids.append(token_id)
                self._accept(ids[position])
                position += 1
            if position >= len(ids):
                break
            self._accept(ids[position])
            position += 1
        return ids[len(token_ids) :]

    def advance(self, token_id: int) -> list[int]:
        """Accept a sampled token; returns the ids that have to follow, which are accepted too."""
        self._accept(token_id)
        forced = list(self._forced_ids()) if self.failure is None else []
        for forced_id in forced:
            self._accept(forced_id)
        return forced

    def _forced_ids(self) -> tuple[int, ...]:
        if not self._jumps_forward or self._matcher is None:
            return ()
        return self._matcher.forced_ids()

    def _accept(self, token_id: int) -> None:
        if self.failure is None and (self._matcher is None or not self._matcher.accept(token_id)):
            self.failure = DEAD_END
