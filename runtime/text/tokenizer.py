"""The tokenizer: turns prompts into checked token ids.

Owns the encoding of the last prompt, because the n choices of a request share one. Receives `Tokenize` and `Abort` from http,
which also asks it to encode and decode texts; sends `Admit` and `Abort` to the scheduler in the order they came, and
`Tokenized` or `RequestFailed` to http.
A long prompt is encoded on a thread, so that the event loop goes on; what came after it waits, so order is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import TypeVar

from runtime.actors.actor import Actor, Ref, receives
from runtime.errors import Failure, InvalidRequest, RequestError
from runtime.loading.vocabulary import Vocabulary
from runtime.messages import (
    Abort,
    Admit,
    CountTokens,
    DecodeTokens,
    Done,
    EncodeTexts,
    Message,
    Refused,
    RequestFailed,
    Tokenize,
    Tokenized,
)
from runtime.params import GrammarSpec, Prompt
from runtime.text.chat_template import ChatTemplate
from runtime.text.prompt_encoding import PromptEncoding, num_chars, param_of

_M = TypeVar("_M", bound=Message)
_T = TypeVar("_T")

MAX_INLINE_CHARS = 2000
"""About a millisecond of encoding; a thread and back costs a tenth of that."""


class Tokenizer(Actor):
    def __init__(
        self,
        vocabulary: Vocabulary,
        chat_template: ChatTemplate | None,
        scheduler: Ref,
        http: Ref,
        *,
        context_length: int,
        vocab_size: int,
        logit_processors: tuple[str, ...] = (),
    ) -> None:
        self._encoding = PromptEncoding(vocabulary, chat_template, context_length=context_length, vocab_size=vocab_size)
        self._scheduler = scheduler
        self._http = http
        self._vocab_size = vocab_size
        self._logit_processors = logit_processors
        self._last: tuple[Prompt, tuple[int, ...] | Failure] | None = None

    @receives(Tokenize)
    async def tokenize(self, message: Tokenize) -> None:
        encoded = await self._encode(message.prompt)
        if isinstance(encoded, Failure):
            self._fail(message, encoded)
            return
        try:
            self._encoding.check_length(len(encoded), message.params.max_new_tokens, param_of(message.prompt))
            self._check_model_limits(message)
        except RequestError as error:
            self._fail(message, error.failure)
            return
        self._admit(message, encoded)

    @receives(EncodeTexts)
    async def encode_texts(self, message: EncodeTexts) -> Done | Refused:
        try:
            return Done(value=await _off_loop_if_long(sum(map(len, message.texts)), self._encoding.encode_texts, message))
        except RequestError as error:
            return Refused(failure=error.failure)

    @receives(CountTokens)
    async def count_tokens(self, message: CountTokens) -> Done | Refused:
        encoded = await self._encode(message.prompt)
        return Refused(failure=encoded) if isinstance(encoded, Failure) else Done(value=len(encoded))

    @receives(DecodeTokens)
    async def decode_tokens(self, message: DecodeTokens) -> Done:
        return Done(value=await _off_loop_if_long(sum(map(len, message.token_ids)), self._encoding.decode_tokens, message))

    @receives(Abort)
    async def abort(self, message: Abort) -> None:
        self._scheduler.tell(message)

    def _check_model_limits(self, message: Tokenize) -> None:
        """What only the loaded model can say of a request. Raises `InvalidRequest`."""
        name = message.params.logit_processor
        if name is not None and name not in self._logit_processors:
            known = ", ".join(self._logit_processors) or "none was loaded (--logit-processor)"
            raise InvalidRequest(f"no logit processor is called {name!r}: {known}", param="custom_logit_processor")
        token_ids = message.logprobs.token_ids if message.logprobs is not None else ()
        if token_ids and not 0 <= min(token_ids) <= max(token_ids) < self._vocab_size:
            raise InvalidRequest(f"token ids must be in [0, {self._vocab_size - 1}]", param="token_ids_logprob")

    async def _encode(self, prompt: Prompt) -> tuple[int, ...] | Failure:
        if self._last is None or self._last[0] is not prompt:
            self._last = None  # frees a long prompt before the next is encoded
            try:
                if num_chars(prompt) > MAX_INLINE_CHARS:
                    self._last = prompt, await asyncio.to_thread(self._encoding.encode, prompt)
                else:
                    self._last = prompt, self._encoding.encode(prompt)
            except RequestError as error:
                self._last = prompt, error.failure
        return self._last[1]

    def _admit(self, message: Tokenize, token_ids: tuple[int, ...]) -> None:
        self._http.tell(Tokenized(request_id=message.request_id, num_prompt_tokens=len(token_ids)))
        self._scheduler.tell(
            Admit(
                request_id=message.request_id,
                token_ids=token_ids,
                params=message.params,
                text=message.text,
                grammar_key=None if message.grammar is None else key_of(message.grammar),
                grammar=message.grammar,
                logprobs=message.logprobs,
                returns_hidden_states=message.returns_hidden_states,
                priority=message.priority,
                arrived=message.arrived,
            )
        )

    def _fail(self, message: Tokenize, failure: Failure) -> None:
        self._http.tell(RequestFailed(request_id=message.request_id, failure=failure))


async def _off_loop_if_long(size: int, work: Callable[[_M], _T], message: _M) -> _T:
    return await asyncio.to_thread(work, message) if size > MAX_INLINE_CHARS else work(message)


def key_of(grammar: GrammarSpec) -> str:
    """The same for the same grammar, so that it is compiled once."""
    return f"{grammar.kind}:{hashlib.sha256(grammar.source.encode(errors='surrogatepass')).hexdigest()}"
