"""What a request's rows bring beside tokens, until a row of tokens takes it along.

Rows of a prompt come in chunks, and a retracted request computes again what it has; here it is known what has come, so that
nothing is handed out twice and nothing is lost. Invariant: everything before `_next_prompt` and `_num_states` has come.
"""

from __future__ import annotations

import msgspec

from runtime.messages import Admit, RowExtra, StepRow, TokenLogprobs, joined_logprobs
from runtime.params import LogprobOptions

States = tuple[tuple[float, ...], ...]


class Gathering:
    """Of one request that wants log probabilities or hidden states."""

    def __init__(self, admit: Admit) -> None:
        self.returns_hidden_states = admit.returns_hidden_states
        self._options = admit.logprobs
        self._num_prompt_tokens = len(admit.token_ids)
        self._next_prompt: int | None = None
        """The first token of the prompt whose log probability is wanted and has not come."""
        self._num_states = 0
        """Positions whose hidden states have come."""
        self._prompt: list[TokenLogprobs] = []
        self._output: list[TokenLogprobs] = []
        self._states: list[tuple[float, ...]] = []
        if admit.logprobs is not None:
            self._move_to(admit.logprobs.prompt_start)

    @property
    def options(self) -> LogprobOptions | None:
        """What the executor has to be asked for from now on."""
        return None if self._options is None else msgspec.structs.replace(self._options, prompt_start=self._next_prompt)

    @property
    def max_cached_tokens(self) -> int | None:
        """How many tokens may come from the cache, which has no outputs; None is any number."""
        limits = [self._num_states] if self.returns_hidden_states else []
        if self._next_prompt is not None:
            limits.append(max(self._next_prompt - 1, 0))
        return min(limits, default=None)

    def add(self, row: StepRow, extra: RowExtra) -> None:
        """Keep what a row brought. What had come before, from a row of an earlier run, is passed over."""
        end = row.start + row.num_tokens
        if extra.logprobs is not None:
            self._output.append(extra.logprobs)
        if extra.prompt_logprobs is not None:
            self._prompt.append(extra.prompt_logprobs)
            self._move_to(end + 1)
        if extra.hidden_states is not None and end > self._num_states:
            self._states += extra.hidden_states[self._num_states - row.start :]
            self._num_states = end

    def take(self) -> tuple[TokenLogprobs | None, TokenLogprobs | None, States | None]:
        """Of the output, of the prompt, and hidden states: each is handed out once."""
        taken = (_joined(self._output), _joined(self._prompt), tuple(self._states) or None)
        self._output, self._prompt, self._states = [], [], []
        return taken

    def _move_to(self, position: int | None) -> None:
        self._next_prompt = position if position is not None and position < self._num_prompt_tokens else None


def gathering_for(admit: Admit) -> Gathering | None:
    """None for most requests."""
    return None if admit.logprobs is None and not admit.returns_hidden_states else Gathering(admit)


def _joined(parts: list[TokenLogprobs]) -> TokenLogprobs | None:
    return joined_logprobs(parts) if len(parts) > 1 else parts[0] if parts else None
