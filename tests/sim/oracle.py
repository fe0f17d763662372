"""What a sequence must say, computed alone and in one go: no batch, no pages, no chunks, no mailboxes.

Whatever its neighbours, its chunks, its prefix hits and its retractions were, a finished request says exactly this, and a
request that was cut says a beginning of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runtime.executor.port import ExecutorLimits
from runtime.loading.vocabulary import Vocabulary
from runtime.messages import Finish
from runtime.params import GrammarSpec, Prompt, SamplingParams, TextOptions, TextPrompt
from runtime.text.tokenizer import key_of
from tests.fakes.executor import constrained_token, next_token
from tests.fakes.matcher import allowed_ids


@dataclass(frozen=True)
class Expected:
    """The whole answer. `refusal` is the error code of a request that can not be served; `may_starve`: that needs more pages
    than there are, so it may fail on the way.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...] = ()
    text: str = ""
    finish: Finish | None = None
    refusal: str | None = None
    may_starve: bool = False


class Oracle:
    def __init__(self, vocabulary: Vocabulary, limits: ExecutorLimits) -> None:
        self._vocabulary = vocabulary
        self._limits = limits

    def expect(self, prompt: Prompt, params: SamplingParams, options: TextOptions, grammar: GrammarSpec | None) -> Expected:
        prompt_ids = self._encode(prompt)
        pool_tokens = self._limits.num_pages * self._limits.page_size
        room = self._limits.context_length - len(prompt_ids)
        if room < max(params.max_new_tokens or 0, 1) or len(prompt_ids) > pool_tokens:
            return Expected(prompt_ids, refusal="context_length_exceeded")
        max_new_tokens = params.max_new_tokens
        if max_new_tokens is None:
            max_new_tokens = min(room, pool_tokens - len(prompt_ids) + 1)
        token_ids, finish = self._generate(prompt_ids, params, max_new_tokens, None if grammar is None else key_of(grammar))
        token_ids, text, finish = self._write(token_ids, finish, options)
        may_starve = len(prompt_ids) + max_new_tokens - 1 > pool_tokens
        return Expected(prompt_ids, token_ids, text, finish, None, may_starve)

    def _encode(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, TextPrompt):
            return tuple(self._vocabulary.tokenizer.encode(prompt.text).ids)
        return prompt.token_ids

    def _generate(
        self, prompt_ids: tuple[int, ...], params: SamplingParams, max_new_tokens: int, key: str | None
    ) -> tuple[tuple[int, ...], Finish]:
        stop_ids = set() if params.ignore_eos else {*self._vocabulary.eos_token_ids, *params.stop_token_ids}
        token_ids = list(prompt_ids)
        for num_generated in range(max_new_tokens):
            masked = stop_ids if num_generated < params.min_new_tokens else ()
            token_ids.append(self._next(token_ids, masked, len(prompt_ids), key))
            output = tuple(token_ids[len(prompt_ids) :])
            if key is not None and not allowed_ids(key, output, self._limits.vocab_size):
                is_stop_id = output[-1] in stop_ids and len(output) < max_new_tokens
                return output, Finish("stop", matched=output[-1] if is_stop_id else None)
            if token_ids[-1] in stop_ids and num_generated + 1 < max_new_tokens:
                return tuple(token_ids[len(prompt_ids) :]), Finish("stop", matched=token_ids[-1])
        return tuple(token_ids[len(prompt_ids) :]), Finish("length", length=max_new_tokens)

    def _next(self, token_ids: list[int], masked: Iterable[int], num_prompt_tokens: int, key: str | None) -> int:
        if key is None:
            return next_token(token_ids, self._limits.vocab_size, masked)
        token_id = constrained_token(token_ids, num_prompt_tokens, key, self._limits.vocab_size)
        assert token_id is not None, "the sequence ends where its grammar does"
        return token_id

    def _write(self, token_ids: tuple[int, ...], finish: Finish, options: TextOptions) -> tuple[tuple[int, ...], str, Finish]:
        """The text, cut at the first stop string that is complete."""
        is_trimmed = isinstance(finish.matched, int) and not options.no_stop_trim
        shown_ids = token_ids[:-1] if is_trimmed else token_ids
        for num_tokens in range(1, len(shown_ids) + 1 if options.stop else 0):
            text = self._decode(shown_ids[:num_tokens], options)
            found = _first_stop(text, options.stop)
            if found is not None:
                end, stop = found
                cut = text[: end if options.no_stop_trim else end - len(stop)]
                return token_ids[:num_tokens], cut, Finish("stop", matched=stop)
        return token_ids, self._decode(shown_ids, options), finish

    def _decode(self, token_ids: tuple[int, ...], options: TextOptions) -> str:
        text: str = self._vocabulary.tokenizer.decode(token_ids, skip_special_tokens=options.skip_special_tokens)
        return text


def _first_stop(text: str, stops: tuple[str, ...]) -> tuple[int, str] | None:
    """The match that is complete first, of several that end together the longest: (its end, the stop string)."""
    ends = [(text.find(stop) + len(stop), -len(stop), stop) for stop in stops if stop in text]
    if not ends:
        return None
    end, _, stop = min(ends)
    return end, stop
