"""Every message that actors exchange. Frozen values; same-rank delivery passes them by reference.

Commands are imperatives (`Admit`), facts are past participles (`PagesGranted`). What happens once per step is one message
per step with one row per request, never a message per token. `request_id` is ours: a process-wide counter, never a
string that a client chose.

The pipeline, and the modules that have its messages:

    Http ── requests ──▶ Tokenizer ── requests ──▶ Scheduler ── steps ──▶ executor
                                                   Scheduler ⇄ Cache (pages), Scheduler ⇄ Grammar (grammars)
    Http ◀── results ── Detokenizer ◀── results ── Scheduler

`Abort` takes the same path as the request it aborts, so that it can not overtake it. What is asked rather than told is in
`questions` and `commands`. Everything is imported from here.
"""

from __future__ import annotations

from runtime.messages.commands import (
    CommandRan,
    ContinueGeneration,
    Done,
    EngineCommand,
    PauseGeneration,
    PauseMode,
    ReadWeights,
    Refused,
    ReleaseMemory,
    ResumeMemory,
    RunCommand,
    StartProfile,
    StopProfile,
    UpdateWeights,
)
from runtime.messages.grammars import CompileGrammar, GrammarCompiled, GrammarFailed, GrammarReady, GrammarUnwanted
from runtime.messages.logprobs import TokenLogprobs, joined_logprobs
from runtime.messages.message import Message
from runtime.messages.pages import (
    Grow,
    Grown,
    PagesDenied,
    PagesGranted,
    PrefixMatch,
    PrefixMatched,
    Publish,
    Release,
    ReservePages,
    SettleStep,
    StepSettled,
    UnwatchPrefix,
    WatchPrefix,
)
from runtime.messages.questions import (
    CacheFlushed,
    CountTokens,
    DecodeTokens,
    EncodeTexts,
    FlushCache,
    InspectPool,
    PoolState,
    Probe,
    SchedulerState,
    Scrape,
)
from runtime.messages.requests import Abort, AbortCause, Admit, Tokenize, Tokenized
from runtime.messages.restarts import EngineLost, PeerRestarted
from runtime.messages.results import Finish, FinishType, RequestFailed, TextBatch, TextOpen, TextRow, TokenBatch, TokenRow
from runtime.messages.statistics import RequestStats, StepStats
from runtime.messages.steps import GRAMMAR_DROPPED, INVALID_TOKEN, RowExtra, SlotOpen, StepDone, StepFailed, StepPlan, StepRow

__all__ = [
    "GRAMMAR_DROPPED",
    "INVALID_TOKEN",
    "Abort",
    "AbortCause",
    "Admit",
    "CacheFlushed",
    "CommandRan",
    "CompileGrammar",
    "ContinueGeneration",
    "CountTokens",
    "DecodeTokens",
    "Done",
    "EncodeTexts",
    "EngineCommand",
    "EngineLost",
    "Finish",
    "FinishType",
    "FlushCache",
    "GrammarCompiled",
    "GrammarFailed",
    "GrammarReady",
    "GrammarUnwanted",
    "Grow",
    "Grown",
    "InspectPool",
    "Message",
    "PagesDenied",
    "PagesGranted",
    "PauseGeneration",
    "PauseMode",
    "PeerRestarted",
    "PoolState",
    "PrefixMatch",
    "PrefixMatched",
    "Probe",
    "Publish",
    "ReadWeights",
    "Refused",
    "Release",
    "ReleaseMemory",
    "RequestFailed",
    "RequestStats",
    "ReservePages",
    "ResumeMemory",
    "RowExtra",
    "RunCommand",
    "SchedulerState",
    "Scrape",
    "SettleStep",
    "SlotOpen",
    "StartProfile",
    "StepDone",
    "StepFailed",
    "StepPlan",
    "StepRow",
    "StepSettled",
    "StepStats",
    "StopProfile",
    "TextBatch",
    "TextOpen",
    "TextRow",
    "TokenBatch",
    "TokenLogprobs",
    "TokenRow",
    "Tokenize",
    "Tokenized",
    "UnwatchPrefix",
    "UpdateWeights",
    "WatchPrefix",
    "joined_logprobs",
]
