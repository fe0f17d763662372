"""From a configuration to the parts that the actors are made of: shared by the server and the offline engine."""

from __future__ import annotations

import logging
from functools import partial
from importlib.metadata import version
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import msgspec

from runtime.assembly import Parts
from runtime.batch_port import Load
from runtime.batches.batches import BatchEnvironment, Batches
from runtime.clock import Clock, SystemClock
from runtime.config import Config, to_flat
from runtime.errors import LoadError
from runtime.http.batch_line import ENDPOINTS, run_line
from runtime.http.info import ServerInfo
from runtime.http.service import Service
from runtime.loading.checkpoint import Checkpoint
from runtime.loading.vocabulary import Vocabulary
from runtime.metrics.registry import Registry
from runtime.sampling.grammar_backend import GrammarVocabulary
from runtime.sampling.grammar_compiler import ProcessCompiler
from runtime.sampling.grammar_store import GrammarStore
from runtime.text.chat_template import ChatTemplate
from runtime.text.output_parsing import OutputParsing
from runtime.text.role_template import role_template_of

if TYPE_CHECKING:
    from runtime.executor.build import Ranks

log = logging.getLogger("callboard")


def make_parts(config: Config, checkpoint: Checkpoint, ranks: Ranks | None = None) -> Parts:
    """Load the model and warm it up; `ranks` share it. Raises `LoadError`, `ConfigError` and `EngineError`."""
    from runtime.executor.build import build_executor  # PyTorch takes seconds to import: not before a flag can be wrong

    clock = SystemClock()
    vocabulary = checkpoint.vocabulary()

    def describe() -> GrammarVocabulary:
        return GrammarVocabulary(vocabulary.tokenizer.to_str(), vocabulary.eos_token_ids, executor.limits.vocab_size)

    grammars = GrammarStore(describe, config.grammar.grammar_cache_mb * 2**20)
    executor = build_executor(config, checkpoint, grammars, ranks)
    executor.warm_up()
    return Parts(
        config=config,
        executor=executor,
        vocabulary=vocabulary,
        chat_template=_chat_template(config.model.chat_template, vocabulary, clock),
        registry=Registry(_served_name(config)),
        clock=clock,
        grammars=ProcessCompiler(grammars, config.grammar),
    )


def _chat_template(file: str | None, vocabulary: Vocabulary, clock: Clock) -> ChatTemplate | None:
    """The operator's template, else the model's own, if there is one. Raises `LoadError`."""
    source = vocabulary.chat_template
    if file is not None:
        try:
            source = Path(file).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise LoadError(f"the chat template {file} can not be read: {error}") from None
    return None if source is None else ChatTemplate(source, vocabulary.special_tokens, clock)


def output_parsing(parts: Parts) -> OutputParsing:
    """The formats of the model's output. Raises `ConfigError`."""
    model = parts.config.model
    parsing = OutputParsing(model.tool_call_parser, model.reasoning_parser, parts.chat_template)
    log.info("tool calls: %s, reasoning: %s", parsing.tool_call_parser or "none", parsing.reasoning_parser or "none")
    return parsing


def batches(parts: Parts, service: Service) -> Batches:
    """Files and batches, whose lines go through the door. The names that they are given must never come again."""
    chance = SystemRandom()
    environment = BatchEnvironment(
        clock=parts.clock,
        new_hex=lambda num_bytes: chance.randbytes(num_bytes).hex(),
        endpoints=ENDPOINTS,
        is_served=lambda model: service.info.is_served(model),
        load=lambda: Load(num_slots=parts.executor.limits.num_slots, num_open=service.replies.num_open),
        run_line=partial(run_line, service),
        max_line_bytes=parts.config.http.max_body_bytes,
    )
    return Batches(parts.config.batches, environment)


def server_info(parts: Parts, checkpoint: Checkpoint) -> ServerInfo:
    """What `/get_server_info` and the checks at the door need to know."""
    limits, model = parts.executor.limits, parts.config.model
    return ServerInfo(
        model_path=model.model_path or checkpoint.name,
        tokenizer_path=model.tokenizer_path or str(checkpoint.path),
        served_model_name=_served_name(parts.config),
        context_length=limits.context_length,
        vocab_size=limits.vocab_size,
        max_total_num_tokens=limits.num_pages * limits.page_size,
        version=version("callboard"),
        started_at=int(parts.clock.wall()),
        flags=to_flat(parts.config),
        skips_tokenizer=model.skip_tokenizer_init,
        role_template=_role_template(parts),
        logit_processors=parts.config.executor.logit_processor_names,
    )


def _role_template(parts: Parts) -> dict[str, Any] | None:
    if parts.chat_template is None:
        return None
    vocabulary = parts.vocabulary
    ends = tuple(vocabulary.tokenizer.id_to_token(token_id) or "" for token_id in vocabulary.eos_token_ids)
    bos = vocabulary.special_tokens.get("bos_token", "") if vocabulary.adds_bos else ""
    found = role_template_of(parts.chat_template, bos, ends)
    return None if found is None else msgspec.to_builtins(found)


def _served_name(config: Config) -> str:
    assert config.model.served_model_name is not None, "resolve() fills it in"
    return config.model.served_model_name


def with_seed(config: Config) -> Config:
    """The one place where chance enters; from here on it is a seed."""
    if config.scheduler.random_seed is not None:
        return config
    scheduler = msgspec.structs.replace(config.scheduler, random_seed=SystemRandom().getrandbits(32))
    return msgspec.structs.replace(config, scheduler=scheduler)
