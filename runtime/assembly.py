"""Wires the actors to each other: the same cast for the server, the offline engine and the simulator.

What differs between them is handed in: the executor, the clock and the supervisor's mailboxes. Groups start in the order in
which messages flow back, so that no actor speaks to one that is not there.

It also says what a crash means for requests. Metrics and the tokenizer lose only the message that crashed them. The
detokenizer and the door lose the text on its way, the engine group loses everything: their open requests fail with an
error that is safe to retry, and are aborted upstream.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from random import Random

from runtime.actors.actor import Actor, Ref
from runtime.actors.supervisor import Crash, Group, Supervisor
from runtime.caching.actor import Cache
from runtime.caching.page_cache import PageCache
from runtime.clock import Clock
from runtime.config import Config
from runtime.errors import InternalError
from runtime.executor.port import Executor
from runtime.http.replies import Replies
from runtime.http.server import Http
from runtime.loading.vocabulary import Vocabulary
from runtime.messages import Abort, EngineLost, PeerRestarted, RequestFailed, Tokenize
from runtime.metrics.actor import Metrics
from runtime.metrics.registry import Registry
from runtime.sampling.grammar import Grammar
from runtime.sampling.grammar_compiler import GrammarCompiler
from runtime.scheduling.actor import Scheduler
from runtime.scheduling.policy import load_policy
from runtime.scheduling.state import Scheduling
from runtime.text.chat_template import ChatTemplate
from runtime.text.detokenizer import Detokenizer
from runtime.text.tokenizer import Tokenizer

HTTP = "http"
TOKENIZER = "tokenizer"
SCHEDULER = "scheduler"
CACHE = "cache"
GRAMMAR = "grammar"
DETOKENIZER = "detokenizer"
METRICS = "metrics"
SUPERVISOR = "supervisor"
EXECUTOR = "executor"
GRAMMAR_COMPILER = "grammar compiler"


@dataclass(frozen=True)
class Parts:
    """What the actors are made of, and what outlives their restarts."""

    config: Config
    executor: Executor
    vocabulary: Vocabulary
    chat_template: ChatTemplate | None
    registry: Registry
    clock: Clock
    grammars: GrammarCompiler | None = None
    """None: constraints on the output are refused."""


class Assembly:
    """All actors, not yet started: `supervisor.start()` does that. `replies` is the way in for requests."""

    def __init__(self, parts: Parts, supervisor: Supervisor) -> None:
        self.parts = parts
        self.supervisor = supervisor
        scheduler = parts.config.scheduler
        self.replies = Replies(
            self.ref(HTTP, TOKENIZER),
            self.ref(HTTP, METRICS),
            parts.clock,
            max_open=parts.executor.limits.num_slots + (scheduler.max_queued_requests or 0),
            request_timeout_s=parts.config.http.request_timeout,
        )
        supervisor.add(Group(METRICS, {METRICS: self._metrics}))
        supervisor.add(Group(HTTP, {HTTP: partial(Http, self.replies)}, self._text_lost))
        supervisor.add(Group(DETOKENIZER, {DETOKENIZER: self._detokenizer}, self._text_lost))
        engine = {CACHE: self._cache, GRAMMAR: self._grammar, SCHEDULER: self._scheduler}
        supervisor.add(Group("engine", engine, self._engine_crashed))
        supervisor.add(Group(TOKENIZER, {TOKENIZER: self._tokenizer}, self._tokenizer_crashed))

    def ref(self, sender: str, receiver: str) -> Ref:
        return self.supervisor.ref(sender, receiver)

    async def stop(self) -> None:
        """End the actors, then what outlives their restarts: an engine group that is not restarted has not ended it."""
        await self.supervisor.stop()
        self.parts.executor.stop()
        if self.parts.grammars is not None:
            await self.parts.grammars.stop()

    # -- the actors ----------------------------------------------------------------------------------------------------

    def _metrics(self) -> Actor:
        interval = self.parts.config.metrics.decode_log_interval
        return Metrics(self.parts.registry, self.parts.clock, decode_log_interval=interval)

    def _tokenizer(self) -> Actor:
        limits = self.parts.executor.limits
        return Tokenizer(
            self.parts.vocabulary,
            self.parts.chat_template,
            self.ref(TOKENIZER, SCHEDULER),
            self.ref(TOKENIZER, HTTP),
            context_length=limits.context_length,
            vocab_size=limits.vocab_size,
            logit_processors=self.parts.config.executor.logit_processor_names,
        )

    def _detokenizer(self) -> Actor:
        return Detokenizer(self.parts.vocabulary, self.ref(DETOKENIZER, HTTP), self.ref(DETOKENIZER, SCHEDULER))

    def _cache(self) -> Actor:
        limits, config = self.parts.executor.limits, self.parts.config.cache
        pages = PageCache(limits.num_pages, limits.page_size, disable_radix_cache=config.disable_radix_cache)
        return Cache(pages, self.ref(CACHE, SCHEDULER))

    def _grammar(self) -> Actor:
        compiler = self.parts.grammars
        if compiler is not None:
            compiler.start(self.ref(GRAMMAR_COMPILER, GRAMMAR).tell)
        return Grammar(self.ref(GRAMMAR, SCHEDULER), compiler)

    def _scheduler(self) -> Actor:
        """Made anew with an executor that has forgotten the slots of the scheduler before."""
        config, executor = self.parts.config, self.parts.executor
        executor.reset()
        executor.start(self.ref(EXECUTOR, SCHEDULER).tell)
        state = Scheduling(
            executor.limits,
            config.scheduler,
            self.parts.vocabulary.eos_token_ids,
            load_policy(config.scheduler.schedule_policy, Random(config.scheduler.random_seed)),
            shares_prefixes=not config.cache.disable_radix_cache,
        )
        return Scheduler(
            state,
            cache=self.ref(SCHEDULER, CACHE),
            grammar=self.ref(SCHEDULER, GRAMMAR),
            executor=executor,
            detokenizer=self.ref(SCHEDULER, DETOKENIZER),
            http=self.ref(SCHEDULER, HTTP),
            metrics=self.ref(SCHEDULER, METRICS),
            clock=self.parts.clock,
        )

    # -- what a crash means for requests -------------------------------------------------------------------------------

    def _text_lost(self, crash: Crash) -> None:
        self.ref(SUPERVISOR, HTTP).tell_control(PeerRestarted(name=crash.name))

    def _engine_crashed(self, crash: Crash) -> None:
        lost = EngineLost(reason=f"the {crash.name} failed")
        # In the scheduler's name: after all that the old one sent, so that nothing is opened for it any more, and before
        # anything of the new one, so that nothing of that is forgotten.
        self.ref(SCHEDULER, DETOKENIZER).tell(lost)
        self.ref(SUPERVISOR, HTTP).tell_control(lost)

    def _tokenizer_crashed(self, crash: Crash) -> None:
        """Its mailbox is kept: only what crashed it is lost. An abort must not be, and a request may have been passed on."""
        for message in crash.lost:
            if isinstance(message, Tokenize):
                failure = InternalError("the request could not be tokenized").failure
                self.ref(SUPERVISOR, HTTP).tell(RequestFailed(request_id=message.request_id, failure=failure))
                message = Abort(request_id=message.request_id, cause="restart")
            if isinstance(message, Abort):
                self.ref(TOKENIZER, SCHEDULER).tell(message)
