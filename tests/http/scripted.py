"""A scripted engine behind the real door: it stands in for everything from the tokenizer to the detokenizer.

A prompt's text says what happens to it: `hold` never starts, `pause:N` stops after N tokens until it is released, `fail` fails
at once and `fail:N` after N tokens; `bad grammar` has its grammar refused; `say TEXT` gets that text, a few characters a token,
and stops; everything else gets a token per step until `max_new_tokens`.

The log probability of a token is minus its id, and the likeliest tokens are the first ones. A prompt's tokens are its ids or
its characters.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.actors.actor import Actor, Ref, receives
from runtime.errors import ContextLengthExceeded, Failure, InvalidRequest
from runtime.messages import (
    Abort,
    CacheFlushed,
    ContinueGeneration,
    CountTokens,
    DecodeTokens,
    Done,
    EncodeTexts,
    EngineCommand,
    Finish,
    FlushCache,
    InspectPool,
    Message,
    PauseGeneration,
    PoolState,
    Probe,
    ReadWeights,
    Refused,
    ReleaseMemory,
    RequestFailed,
    RequestStats,
    ResumeMemory,
    SchedulerState,
    Scrape,
    StartProfile,
    StopProfile,
    TextBatch,
    TextRow,
    Tokenize,
    TokenLogprobs,
    UpdateWeights,
)
from runtime.params import ChatPrompt, GrammarSpec, LogprobOptions, Prompt, TextPrompt, TokenPrompt

BOS = 1
CHARS_PER_TOKEN = 4
FIRST_SPOKEN_ID = 100
ALPHABET = (" the", " sea", ' "quoted"', " né", "\n", " 🎭", "\\", " end")


def text_of(prompt: Prompt) -> str:
    """What decides how the engine treats a prompt."""
    if isinstance(prompt, ChatPrompt):
        return str(prompt.turns[-1]["content"])
    return prompt.text if isinstance(prompt, TextPrompt) else " ".join(map(str, prompt.token_ids))


def token(text: str, seed: int, position: int) -> int:
    """The token at `position` of the output."""
    return zlib.crc32(f"{text} {seed} {position}".encode()) % len(ALPHABET)


def expected(text: str, num_tokens: int, seed: int = 0) -> str:
    """The whole output for a prompt."""
    return "".join(ALPHABET[token(text, seed, position)] for position in range(num_tokens))


def prompt_ids(prompt: Prompt) -> tuple[int, ...]:
    return prompt.token_ids if isinstance(prompt, TokenPrompt) else tuple(map(ord, text_of(prompt)))


def prompt_tokens(prompt: Prompt) -> dict[int, bytes]:
    """The bytes of each token, by id."""
    if isinstance(prompt, TokenPrompt):
        return {token_id: ALPHABET[token_id % len(ALPHABET)].encode() for token_id in prompt.token_ids}
    return {ord(character): character.encode() for character in text_of(prompt)}


def logprobs_of(token_ids: Sequence[int], options: LogprobOptions, *, has_first: bool = False) -> TokenLogprobs:
    """`has_first`: they begin with the first token of a prompt, which has none."""
    first = (None,) if has_first else ()
    rest = token_ids[len(first) :]
    values = (*first, *(float(-token_id) for token_id in rest))
    top = tuple((token_id, float(-token_id)) for token_id in range(options.num_top))
    chosen = tuple((token_id, float(-token_id)) for token_id in options.token_ids)
    return TokenLogprobs(
        tuple(token_ids),
        values,
        (*first, *(top for _ in rest)) if options.num_top else (),
        (*first, *(chosen for _ in rest)) if options.token_ids else (),
    )


class Step(Message, frozen=True):
    """The engine to itself: one more step."""


@dataclass
class Running:
    message: Tokenize
    num_tokens: int = 0

    @property
    def text(self) -> str:
        return text_of(self.message.prompt)

    @property
    def limit(self) -> int:
        """After how many tokens the script says something special."""
        number = self.text.partition(":")[2].partition(" ")[0]
        return int(number) if number.isdigit() else 0

    def next_token(self) -> tuple[tuple[int, ...], str]:
        """Its ids, of which there are none if no token was asked for, and its text."""
        if self.message.params.max_new_tokens == 0:
            return (), ""
        if self.speech is not None:
            start = self.num_tokens * CHARS_PER_TOKEN
            return (FIRST_SPOKEN_ID + self.num_tokens,), self.speech[start : start + CHARS_PER_TOKEN]
        token_id = token(self.text, self.message.params.seed, self.num_tokens)
        return (token_id,), ALPHABET[token_id]

    @property
    def speech(self) -> str | None:
        return self.text.removeprefix("say ") if self.text.startswith("say ") else None

    def finish(self) -> Finish | None:
        if self.speech is not None and self.num_tokens * CHARS_PER_TOKEN >= len(self.speech):
            return Finish("stop", matched=2)
        limit = self.message.params.max_new_tokens
        return Finish("length", length=limit) if limit is not None and self.num_tokens >= limit else None


@dataclass
class Script:
    """What the actors share with the test: what they saw, and what it wants."""

    tokenized: list[Tokenize] = field(default_factory=list)
    aborts: list[Abort] = field(default_factory=list)
    stats: list[RequestStats] = field(default_factory=list)
    running: dict[int, Running] = field(default_factory=dict)
    is_released: bool = False
    num_steps: int = 0
    num_waiting: int = 0
    commands: list[EngineCommand] = field(default_factory=list)
    refusal: Failure | None = None
    """What the next commands are answered with, if anything."""
    value: Any = None
    """Else this."""
    max_tokens: int | None = None
    """Outputs end here, as if the context were full."""
    num_leases: list[int] = field(default_factory=list)
    """What the next flushes find, the last one for ever; 0 if empty."""


class Engine(Actor):
    def __init__(self, script: Script, http: Ref, myself: Ref) -> None:
        self.script = script
        self.http = http
        self.myself = myself

    @receives(Tokenize)
    async def tokenize(self, message: Tokenize) -> None:
        self.script.tokenized.append(message)
        self.script.running[message.request_id] = Running(message)
        self.myself.tell(Step())

    @receives(EncodeTexts)
    async def encode_texts(self, message: EncodeTexts) -> Done:
        """A token per character, after `BOS`."""
        beginning = [BOS] if message.add_special_tokens else []
        return Done(value=[beginning + [ord(char) % 900 for char in text] for text in message.texts])

    @receives(DecodeTokens)
    async def decode_tokens(self, message: DecodeTokens) -> Done:
        hidden = {BOS} if message.skip_special_tokens else set()
        return Done(value=["".join(chr(one) for one in token_ids if one not in hidden) for token_ids in message.token_ids])

    @receives(Abort)
    async def abort(self, message: Abort) -> None:
        self.script.aborts.append(message)
        self.script.running.pop(message.request_id, None)

    @receives(CountTokens)
    async def count_tokens(self, message: CountTokens) -> Done | Refused:
        if text_of(message.prompt) == "fail":
            return Refused(failure=ContextLengthExceeded("the prompt is too long", param="messages").failure)
        return Done(value=len(text_of(message.prompt)))

    @receives(Step)
    async def step(self, message: Step) -> None:
        self.script.num_steps += 1
        rows = tuple(row for sequence in list(self.script.running.values()) for row in self.advance(sequence))
        if rows:
            self.http.tell(TextBatch(rows=rows))
            self.myself.tell(Step())

    def advance(self, sequence: Running) -> tuple[TextRow, ...]:
        is_special = sequence.num_tokens == sequence.limit
        if sequence.text == "bad grammar" and sequence.message.grammar is not None:
            self.refuse_grammar(sequence, sequence.message.grammar)
            return ()
        if sequence.text == "hold" or (sequence.text.startswith("pause") and is_special and not self.script.is_released):
            return ()
        if sequence.text.startswith("fail") and is_special:
            self.fail(sequence)
            return ()
        return (self.generate(sequence),)

    def fail(self, sequence: Running) -> None:
        request_id = sequence.message.request_id
        del self.script.running[request_id]
        failure = ContextLengthExceeded("the prompt is too long", param="prompt").failure
        self.http.tell(RequestFailed(request_id=request_id, failure=failure))

    def refuse_grammar(self, sequence: Running, grammar: GrammarSpec) -> None:
        request_id = sequence.message.request_id
        del self.script.running[request_id]
        failure = InvalidRequest("the grammar does not compile", param=grammar.kind).failure
        self.http.tell(RequestFailed(request_id=request_id, failure=failure))

    def generate(self, sequence: Running) -> TextRow:
        message, position = sequence.message, sequence.num_tokens
        token_ids, text = sequence.next_token()
        sequence.num_tokens += len(token_ids)
        finish = sequence.finish()
        if finish is None and sequence.num_tokens == self.script.max_tokens:
            finish = Finish("length", length=sequence.num_tokens)
        if finish is not None:
            del self.script.running[message.request_id]
        texts = dict.fromkeys(token_ids, text.encode())
        return TextRow(
            request_id=message.request_id,
            text=text,
            token_ids=token_ids,
            num_completion_tokens=sequence.num_tokens,
            num_prompt_tokens=len(prompt_ids(message.prompt)),
            hidden_states=((float(position),) * 2,) if message.returns_hidden_states else None,
            num_cached_tokens=1,
            finish=finish,
            **({} if message.logprobs is None else self.logprobs(message, token_ids, texts, is_first=position == 0)),
        )

    def logprobs(
        self, message: Tokenize, token_ids: tuple[int, ...], texts: dict[int, bytes], *, is_first: bool
    ) -> dict[str, Any]:
        options = message.logprobs
        assert options is not None
        named = {*range(options.num_top), *options.token_ids}
        fields: dict[str, Any] = {"logprobs": logprobs_of(token_ids, options)}
        fields["token_texts"] = {token_id: ALPHABET[token_id % len(ALPHABET)].encode() for token_id in named} | texts
        if is_first and options.prompt_start is not None:
            ids = prompt_ids(message.prompt)[options.prompt_start :]
            fields["prompt_logprobs"] = logprobs_of(ids, options, has_first=options.prompt_start == 0)
            fields["token_texts"] |= prompt_tokens(message.prompt)
        return fields


class Rest(Actor):
    """Scheduler, cache and metrics, as far as the door asks them."""

    def __init__(self, script: Script) -> None:
        self.script = script

    @receives(RequestStats)
    async def request_stats(self, stats: RequestStats) -> None:
        self.script.stats.append(stats)

    @receives(Scrape)
    async def scrape(self, message: Scrape) -> bytes:
        return b"sglang:num_running_reqs 0.0\n"

    @receives(Probe)
    async def probe(self, message: Probe) -> SchedulerState:
        num_running = len(self.script.running)
        return SchedulerState(
            num_steps=self.script.num_steps, num_waiting=self.script.num_waiting, num_running=num_running, num_in_flight_steps=0
        )

    @receives(InspectPool)
    async def inspect_pool(self, message: InspectPool) -> PoolState:
        return PoolState(
            num_pages=8,
            num_free_pages=7,
            num_cached_pages=1,
            num_leased_pages=0,
            num_fenced_pages=0,
            num_leases=0,
            page_size=16,
        )

    @receives(FlushCache)
    async def flush_cache(self, message: FlushCache) -> CacheFlushed:
        found = self.script.num_leases
        num_leases = found.pop(0) if len(found) > 1 else sum(found)
        return CacheFlushed(num_freed_pages=1, num_leases=num_leases)

    def obey(self, command: EngineCommand) -> Done | Refused:
        self.script.commands.append(command)
        return Done(value=self.script.value) if self.script.refusal is None else Refused(failure=self.script.refusal)

    @receives(PauseGeneration)
    async def pause_generation(self, command: PauseGeneration) -> Done | Refused:
        return self.obey(command)

    @receives(ContinueGeneration)
    async def continue_generation(self, command: ContinueGeneration) -> Done | Refused:
        return self.obey(command)

    @receives(UpdateWeights)
    async def update_weights(self, command: UpdateWeights) -> Done | Refused:
        return self.obey(command)

    @receives(ReadWeights)
    async def read_weights(self, command: ReadWeights) -> Done | Refused:
        return self.obey(command)

    @receives(ReleaseMemory)
    async def release_memory(self, command: ReleaseMemory) -> Done | Refused:
        return self.obey(command)

    @receives(ResumeMemory)
    async def resume_memory(self, command: ResumeMemory) -> Done | Refused:
        return self.obey(command)

    @receives(StartProfile)
    async def start_profile(self, command: StartProfile) -> Done | Refused:
        return self.obey(command)

    @receives(StopProfile)
    async def stop_profile(self, command: StopProfile) -> Done | Refused:
        return self.obey(command)
