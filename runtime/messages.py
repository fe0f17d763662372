"""Every message that actors exchange. Frozen values; same-rank delivery passes them by reference.

Commands are imperatives (`Admit`), facts are past participles (`PagesGranted`). What happens once per step is one message
per step with one row per request, never a message per token. `request_id` is ours: a process-wide counter, never a
string that a client chose.

The pipeline:  Http → Tokenizer → Scheduler ⇄ Cache, Scheduler ⇄ executor, Scheduler → Detokenizer → Http.
`Abort` takes the same path as the request it aborts, so that it can not overtake it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal

import msgspec

from runtime.errors import Failure
from runtime.params import GrammarSpec, LogprobOptions, Prompt, SamplingParams, TextOptions


class Message(msgspec.Struct, frozen=True, tag=True):
    """Base of all messages."""


# ---------------------------------------------------------------------------------------------------------------------
# Requests on their way in


class Tokenize(Message, frozen=True, kw_only=True):
    """Http → Tokenizer: one sequence to generate (n choices are n of these that share one `prompt` object)."""

    request_id: int
    prompt: Prompt
    params: SamplingParams
    text: TextOptions
    grammar: GrammarSpec | None = None
    logprobs: LogprobOptions | None = None
    returns_hidden_states: bool = False
    priority: int = 0
    arrived: float = 0.0
    """Seconds on the monotonic clock."""


class Admit(Message, frozen=True, kw_only=True):
    """Tokenizer → Scheduler: a sequence whose token ids are known and checked against the logits width."""

    request_id: int
    token_ids: tuple[int, ...]
    params: SamplingParams
    text: TextOptions
    grammar_key: str | None = None
    """Set together with `grammar`, and the same for the same one."""
    grammar: GrammarSpec | None = None
    logprobs: LogprobOptions | None = None
    returns_hidden_states: bool = False
    priority: int = 0
    arrived: float = 0.0


class Tokenized(Message, frozen=True, kw_only=True):
    """Tokenizer → Http: how long the prompt is, for replies that end before their first row."""

    request_id: int
    num_prompt_tokens: int


AbortCause = Literal["disconnect", "stop_string", "deadline", "api", "restart"]


class Abort(Message, frozen=True, kw_only=True):
    """Http → Tokenizer → Scheduler, or Detokenizer → Scheduler (a stop string matched).

    Unknown ids are normal: the request may have ended in the meantime.
    """

    request_id: int
    cause: AbortCause


class CompileGrammar(Message, frozen=True, kw_only=True):
    """Scheduler → Grammar: `request_id` is the first to wait for `key`. Answered once, unless it is unwanted before."""

    request_id: int
    key: str
    grammar: GrammarSpec


class GrammarUnwanted(Message, frozen=True, kw_only=True):
    """Scheduler → Grammar: the last request that waited for `key` has left. Its answer may be on its way."""

    key: str


class GrammarReady(Message, frozen=True, kw_only=True):
    """Grammar → Scheduler: answers the `CompileGrammar` of `request_id`."""

    request_id: int
    key: str


class GrammarFailed(Message, frozen=True, kw_only=True):
    """Grammar → Scheduler: answers the `CompileGrammar` of `request_id`. Every request that waits for `key` fails."""

    request_id: int
    key: str
    failure: Failure


class GrammarCompiled(Message, frozen=True, kw_only=True):
    """The compiler's processes → Grammar: without a failure the grammar is in the store."""

    key: str
    failure: Failure | None = None
    is_lasting: bool = True
    """It would fail again; not so if the machine is to blame."""


# ---------------------------------------------------------------------------------------------------------------------
# Scheduler ⇄ Cache


class ReservePages(Message, frozen=True, kw_only=True):
    """Scheduler → Cache: pages for all of `token_ids`, reusing the longest cached prefix.

    The last token is never taken from the cache, since its logits are needed.
    """

    request_id: int
    token_ids: tuple[int, ...]
    max_cached_tokens: int | None = None
    """Reuse no more than these: the outputs of the later tokens are wanted, so they have to be computed."""


class PagesGranted(Message, frozen=True, kw_only=True):
    """Cache → Scheduler: `pages` is the whole page table of the sequence, cached pages first."""

    request_id: int
    lease_id: int
    pages: tuple[int, ...]
    num_cached_tokens: int
    num_available_pages: int
    """Free and evictable pages that are left."""


class PagesDenied(Message, frozen=True, kw_only=True):
    """Cache → Scheduler: not enough free and evictable pages; nothing was taken."""

    request_id: int
    num_available_pages: int


class Grow(msgspec.Struct, frozen=True):
    """Ask for `num_pages` more at the end of a lease's page table."""

    lease_id: int
    num_pages: int


class Publish(msgspec.Struct, frozen=True):
    """The first `num_tokens` of the lease's prompt are computed: full pages may be shared from now on."""

    lease_id: int
    num_tokens: int


class Release(msgspec.Struct, frozen=True):
    """End a lease. `token_ids` are all tokens whose keys and values are computed (prompt and output).

    Pages that are not kept in the tree are reissued only after step `fence_step` has retired.
    """

    lease_id: int
    token_ids: tuple[int, ...]
    fence_step: int


class SettleStep(Message, frozen=True, kw_only=True):
    """Scheduler → Cache: everything that changed since the last one, applied in the order publishes, releases, grows."""

    step_id: int
    retired_step: int
    """All steps up to and including this one are done on the device."""
    publishes: tuple[Publish, ...] = ()
    releases: tuple[Release, ...] = ()
    grows: tuple[Grow, ...] = ()


class Grown(msgspec.Struct, frozen=True):
    lease_id: int
    pages: tuple[int, ...]


class StepSettled(Message, frozen=True, kw_only=True):
    """Cache → Scheduler: the answer to `SettleStep`. A lease in `denied` got nothing."""

    step_id: int
    grown: tuple[Grown, ...]
    denied: tuple[int, ...]
    num_available_pages: int


class WatchPrefix(Message, frozen=True, kw_only=True):
    """Scheduler → Cache: tell me how much of this waiting request is cached, now and when it changes."""

    request_id: int
    token_ids: tuple[int, ...]


class UnwatchPrefix(Message, frozen=True, kw_only=True):
    """Scheduler → Cache: the request left the queue."""

    request_id: int


class PrefixMatch(msgspec.Struct, frozen=True):
    request_id: int
    num_cached_tokens: int
    tree_order: int
    """Position of the request in a depth-first walk that visits the heaviest subtree first (dfs-weight)."""


class PrefixMatched(Message, frozen=True, kw_only=True):
    """Cache → Scheduler: the watched requests whose match changed."""

    matches: tuple[PrefixMatch, ...]


# ---------------------------------------------------------------------------------------------------------------------
# Scheduler ⇄ executor


class SlotOpen(msgspec.Struct, frozen=True, kw_only=True):
    """A sequence takes a slot in the executor's batch table."""

    slot: int
    token_ids: tuple[int, ...]
    """Prompt, and after a retraction also what was generated before it."""
    num_prompt_tokens: int
    """How many of `token_ids` are the client's prompt; penalties and counts need to know."""
    pages: tuple[int, ...]
    params: SamplingParams
    masked_token_ids: tuple[int, ...] = ()
    """Ids that may not be sampled while fewer than `params.min_new_tokens` tokens are generated."""
    grammar_key: str | None = None
    """The compiled grammar that the executor finds in the store which it shares with the Grammar actor."""
    logprobs: LogprobOptions | None = None
    returns_hidden_states: bool = False


class StepRow(msgspec.Struct, frozen=True, kw_only=True):
    """Compute `num_tokens` tokens of a slot, from position `start`.

    A token at a position that `SlotOpen.token_ids` does not cover is the one sampled by the step before, which the executor
    still holds: the scheduler plans it without knowing it.
    """

    slot: int
    start: int
    num_tokens: int
    new_pages: tuple[int, ...] = ()
    """Appended to the slot's page table before the step runs."""
    sample: bool
    """Whether the row ends at the last known token, so that its logits choose the next one."""


class StepPlan(Message, frozen=True, kw_only=True):
    """Scheduler → executor: one forward pass. `closes` are applied first, then `opens`, then the rows run."""

    step_id: int
    closes: tuple[int, ...] = ()
    opens: tuple[SlotOpen, ...] = ()
    rows: tuple[StepRow, ...]


INVALID_TOKEN = -1
"""Stands in `StepDone.token_ids` for a row whose logits were not finite: that request alone fails."""


class TokenLogprobs(msgspec.Struct, frozen=True):
    """Log probabilities of successive tokens; `top` and `chosen` have one entry per token, or none if nobody asked."""

    token_ids: tuple[int, ...]
    values: tuple[float | None, ...]
    """None for the first token of a prompt, here and instead of its entries in `top` and `chosen`."""
    top: tuple[tuple[tuple[int, float], ...] | None, ...] = ()
    """(token id, log probability), the likeliest first."""
    chosen: tuple[tuple[tuple[int, float], ...] | None, ...] = ()
    """Of `LogprobOptions.token_ids`, in their order."""


def joined_logprobs(parts: Sequence[TokenLogprobs]) -> TokenLogprobs:
    """All of `parts`, which follow each other, as one."""
    return TokenLogprobs(
        token_ids=tuple(chain.from_iterable(part.token_ids for part in parts)),
        values=tuple(chain.from_iterable(part.values for part in parts)),
        top=tuple(chain.from_iterable(part.top for part in parts)),
        chosen=tuple(chain.from_iterable(part.chosen for part in parts)),
    )


class RowExtra(msgspec.Struct, frozen=True, kw_only=True):
    """What a row of a step brings beside its token. Most rows have none."""

    row: int
    """Index into the plan's rows."""
    logprobs: TokenLogprobs | None = None
    """Of the sampled token."""
    prompt_logprobs: TokenLogprobs | None = None
    """Of the prompt tokens that this row's logits are about, in order; rows of one prompt follow each other without a gap."""
    hidden_states: tuple[tuple[float, ...], ...] | None = None
    """[tokens of the row][hidden]: the last layer's normed output."""
    forced_ids: tuple[int, ...] = ()
    """Tokens that the grammar leaves no choice about, after the sampled one. The executor has appended them to the slot."""
    is_complete: bool = False
    """The grammar allows nothing more: the sequence ends here."""
    failure: Failure | None = None
    """This request alone fails, for example because its logit processor raised."""


GRAMMAR_DROPPED = "grammar_dropped"
"""Code of a failure: the grammar was announced as ready, but the store does not have it any more."""


class StepDone(Message, frozen=True, kw_only=True):
    """Executor → Scheduler: sampled ids, in the order of the plan's rows with `sample` set."""

    step_id: int
    token_ids: tuple[int, ...]
    extras: tuple[RowExtra, ...] = ()
    device_us: int = 0
    """Time inside the model's forward pass and the sampler."""
    host_us: int = 0
    """Time spent preparing inputs and reading results."""


class StepFailed(Message, frozen=True, kw_only=True):
    """Executor → Scheduler: the step raised. Its requests fail; if `is_fatal` the engine group is lost."""

    step_id: int
    reason: str
    is_fatal: bool = False
    lost: Literal["engine", "rank", "device"] = "engine"
    """What is, if `is_fatal`. Another engine can be started in its place, another rank or device can not."""


# ---------------------------------------------------------------------------------------------------------------------
# Results on their way out

FinishType = Literal["stop", "length", "abort"]


class Finish(msgspec.Struct, frozen=True):
    """Why a sequence ended. `matched` is the stop string or stop token id; `length` the token limit that was reached."""

    type: FinishType
    matched: str | int | None = None
    length: int | None = None


class TextOpen(msgspec.Struct, frozen=True, kw_only=True):
    """A sequence produces its first tokens. `prompt_ids` is the tail of the prompt that decoding may need for context."""

    request_id: int
    text: TextOptions
    prompt_ids: tuple[int, ...]
    num_prompt_tokens: int
    num_cached_tokens: int


class TokenRow(msgspec.Struct, frozen=True):
    """New tokens of one sequence; `finish` is set on its last row. A stop token id that ended it is in `token_ids`."""

    request_id: int
    token_ids: tuple[int, ...]
    finish: Finish | None = None
    logprobs: TokenLogprobs | None = None
    """One entry per id of `token_ids`."""
    prompt_logprobs: TokenLogprobs | None = None
    hidden_states: tuple[tuple[float, ...], ...] | None = None


class TokenBatch(Message, frozen=True, kw_only=True):
    """Scheduler → Detokenizer: one step's results. `closes` are sequences that ended without a result row."""

    step_id: int
    opens: tuple[TextOpen, ...] = ()
    rows: tuple[TokenRow, ...] = ()
    closes: tuple[int, ...] = ()


class TextRow(msgspec.Struct, frozen=True, kw_only=True):
    """New text of one sequence. With `finish` it is the one terminal message of a request that succeeded."""

    request_id: int
    text: str
    """The new piece only; an incomplete UTF-8 tail and a possible beginning of a stop string are held back."""
    token_ids: tuple[int, ...]
    num_completion_tokens: int
    """Since the start of the sequence."""
    num_prompt_tokens: int
    num_cached_tokens: int
    finish: Finish | None = None
    logprobs: TokenLogprobs | None = None
    """One entry per id of `token_ids`."""
    prompt_logprobs: TokenLogprobs | None = None
    """Once, on the first row, for all prompt tokens that were asked for."""
    token_texts: dict[int, bytes] = {}
    """The bytes of every token id that the log probabilities name."""
    hidden_states: tuple[tuple[float, ...], ...] | None = None


class TextBatch(Message, frozen=True, kw_only=True):
    """Detokenizer → Http: one step's text."""

    rows: tuple[TextRow, ...]


class RequestFailed(Message, frozen=True, kw_only=True):
    """Any → Http: the one terminal message of a request that failed."""

    request_id: int
    failure: Failure


class EngineLost(Message, frozen=True, kw_only=True):
    """Supervisor → Http, Detokenizer: the engine group restarted; every open request is gone."""

    reason: str


class PeerRestarted(Message, frozen=True, kw_only=True):
    """Supervisor → Http: the detokenizer or the door lost the text of every open request, so they fail."""

    name: str


# ---------------------------------------------------------------------------------------------------------------------
# Metrics


class StepStats(Message, frozen=True, kw_only=True):
    """Scheduler → Metrics: one finished step, or, without any tokens, that the engine is idle."""

    num_prefill_tokens: int
    num_decode_tokens: int
    num_new_sequences: int
    num_cached_tokens: int
    """Prompt tokens of the new sequences that came from the cache."""
    num_new_prompt_tokens: int
    """Prompt tokens of the new sequences, cached or not."""
    num_running: int
    num_queued: int
    num_grammar_queued: int = 0
    """Those of the queued that wait for their grammar."""
    num_used_tokens: int
    num_total_tokens: int
    num_retracted: int
    queue_times_s: tuple[float, ...] = ()
    """How long the new sequences waited, from their arrival to their first step."""
    device_us: int
    host_us: int


class RequestStats(Message, frozen=True, kw_only=True):
    """Http → Metrics: one ended request. Seconds; `None` where it never came to that."""

    outcome: Literal["finished", "failed", "aborted"]
    num_prompt_tokens: int
    num_completion_tokens: int
    num_cached_tokens: int
    is_streaming: bool
    e2e_s: float
    ttft_s: float | None = None


# ---------------------------------------------------------------------------------------------------------------------
# Control: the only messages that are asked (with a deadline) rather than told


class Scrape(Message, frozen=True, kw_only=True):
    """ask Metrics: answers the Prometheus text exposition as bytes."""


class Probe(Message, frozen=True, kw_only=True):
    """ask Scheduler: answers `SchedulerState`."""


class SchedulerState(Message, frozen=True, kw_only=True):
    num_steps: int
    """Steps retired since start: liveness means that it moves while there is work."""
    num_waiting: int
    num_running: int
    num_in_flight_steps: int
    is_held: bool = False
    """No step is due although there may be work: a pause, or a command that has the engine for itself."""


class InspectPool(Message, frozen=True, kw_only=True):
    """ask Cache: answers `PoolState`."""


class PoolState(Message, frozen=True, kw_only=True):
    num_pages: int
    num_free_pages: int
    num_cached_pages: int
    """In the tree and used by nobody."""
    num_leased_pages: int
    num_fenced_pages: int
    """Released, but a step that may still write to them is in flight."""
    num_leases: int
    page_size: int


class FlushCache(Message, frozen=True, kw_only=True):
    """ask Cache: forget every unused cached page. Answers `CacheFlushed`."""


class CacheFlushed(Message, frozen=True, kw_only=True):
    num_freed_pages: int
    num_leases: int
    """Requests that still hold pages; the cache is empty only if this is 0."""


class EncodeTexts(Message, frozen=True, kw_only=True):
    """ask Tokenizer: the token ids of each of `texts`. Answers `Done`, whose value is a list of lists, or `Refused`."""

    texts: tuple[str, ...]
    add_special_tokens: bool = True
    param: str = "prompt"
    """What the client called them."""


class CountTokens(Message, frozen=True, kw_only=True):
    """ask Tokenizer: how many tokens `prompt` has. Answers `Done` or `Refused`."""

    prompt: Prompt


class DecodeTokens(Message, frozen=True, kw_only=True):
    """ask Tokenizer: the text of each list of token ids. Answers `Done`, whose value is a list of texts."""

    token_ids: tuple[tuple[int, ...], ...]
    skip_special_tokens: bool = True


class Done(Message, frozen=True, kw_only=True):
    """Answers a command that worked; `value` is what the command promises, None for most."""

    value: Any = None


class Refused(Message, frozen=True, kw_only=True):
    """Answers a command that did not. Nothing has changed."""

    failure: Failure


PauseMode = Literal["abort", "retract", "in_place"]


class PauseGeneration(Message, frozen=True, kw_only=True):
    """ask Scheduler: plan no more steps. Running requests are aborted, or give their pages back, or keep them."""

    mode: PauseMode = "abort"


class ContinueGeneration(Message, frozen=True, kw_only=True):
    """ask Scheduler: end of a pause."""


class UpdateWeights(Message, frozen=True, kw_only=True):
    """ask Scheduler: let running requests end, admit none meanwhile, load weights of the same shapes, flush the cache.

    Refused if the files are missing or do not fit: the old weights go on serving.
    """

    model_path: str
    load_format: str | None = None
    aborts_all: bool = False
    """Abort what runs instead of waiting for it."""


class ReadWeights(Message, frozen=True, kw_only=True):
    """ask Scheduler: the first `truncate_size` rows of a parameter, by its name in the checkpoint.

    `Done.value`: nested lists of floats.
    """

    name: str
    truncate_size: int = 100


class ReleaseMemory(Message, frozen=True, kw_only=True):
    """ask Scheduler: give the memory of idle weights and KV cache back. Refused while requests are open."""

    tags: tuple[Literal["weights", "kv_cache"], ...] = ("weights", "kv_cache")


class ResumeMemory(Message, frozen=True, kw_only=True):
    """ask Scheduler: take it again; requests that came meanwhile have waited."""

    tags: tuple[Literal["weights", "kv_cache"], ...] = ("weights", "kv_cache")


class StartProfile(Message, frozen=True, kw_only=True):
    """ask Scheduler: record the executor's operators. `num_steps` None: until `StopProfile`."""

    output_dir: str
    num_steps: int | None = None


class StopProfile(Message, frozen=True, kw_only=True):
    """ask Scheduler: write the trace, in Chrome's trace format. `Done.value`: its path."""


EngineCommand = (
    PauseGeneration
    | ContinueGeneration
    | UpdateWeights
    | ReadWeights
    | ReleaseMemory
    | ResumeMemory
    | StartProfile
    | StopProfile
)
"""Each is answered by `Done` or `Refused`."""


class RunCommand(Message, frozen=True, kw_only=True):
    """Scheduler → executor: to be done between the steps before and after it."""

    command_id: int
    command: EngineCommand


class CommandRan(Message, frozen=True, kw_only=True):
    """Executor → Scheduler: the answer to a `RunCommand`."""

    command_id: int
    answer: Done | Refused
