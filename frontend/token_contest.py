"""`select` where an API gives no log probabilities of a prompt: SGLang's recipe for completion models.

The choices compete token by token. The API may only say one of their next tokens; those that go on otherwise are out.
"""

from __future__ import annotations

from collections.abc import Sequence


class TokenContest:
    """`token_ids` are those of each choice. `scores` counts how many tokens of each the model has said."""

    def __init__(self, token_ids: Sequence[Sequence[int]]) -> None:
        self._token_ids = token_ids
        self._running = [index for index, tokens in enumerate(token_ids) if tokens]
        self._step = 0
        self.scores = [0] * len(token_ids)

    @property
    def candidates(self) -> list[int]:
        """The next tokens of the choices that are still running, without repetitions."""
        return list(dict.fromkeys(self._token_ids[index][self._step] for index in self._running))

    @property
    def is_over(self) -> bool:
        """At most one choice can still gain."""
        return self._step > 0 and len(self._running) <= 1

    @property
    def winner(self) -> int:
        """The index of the highest score; the first one, if several are equal."""
        return self.scores.index(max(self.scores))

    def say(self, token_id: int) -> None:
        """The model said one of `candidates`."""
        agreeing = [index for index in self._running if self._token_ids[index][self._step] == token_id]
        for index in agreeing:
            self.scores[index] += 1
        self._step += 1
        self._running = [index for index in agreeing if len(self._token_ids[index]) > self._step]
