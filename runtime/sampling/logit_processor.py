"""Custom logit processors: classes of the operator's that may change a request's logits before the sampler chooses.

`--logit-processor package.module:Class` names a class, which is imported and built once, without arguments, at the start. A
request picks one by the name of its class (`SamplingParams.logit_processor`) and passes it `custom_params`. For every token of
that request its `process` is called with the row of logits, after bias and penalties and before the grammar, the temperature
and the filters, so that a grammar still holds. What it raises ends that request only.

    class Shout:
        def process(self, logits, token_ids, num_prompt_tokens, custom_params):
            logits[custom_params["token_id"]] += 5.0

Code is never taken from a request: SGLang's serialized processors are refused.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from runtime.actors.foreign_code import outcome
from runtime.errors import ConfigError, Failure, InvalidRequest
from runtime.sampling.steps import Row

log = logging.getLogger(__name__)


class LogitProcessor(Protocol):
    """One object serves all requests, on the executor's thread. State of its own would make results depend on neighbours."""

    def process(
        self, logits: Row, token_ids: npt.NDArray[np.int32], num_prompt_tokens: int, custom_params: Mapping[str, Any]
    ) -> None:
        """Change `logits` [vocab] float32 in place. `token_ids` [tokens]: prompt and output so far, not to be changed."""
        ...


Processors = Mapping[str, LogitProcessor]


def load_processors(paths: Sequence[str]) -> dict[str, LogitProcessor]:
    """The processors that `package.module:Class` names, by class name. Raises `ConfigError`."""
    processors: dict[str, LogitProcessor] = {}
    for path in paths:
        name = path.rpartition(":")[2]
        if name in processors:
            raise ConfigError(f"--logit-processor names two classes called {name}; requests could not tell them apart")
        processor = outcome(partial(_load, path))
        if isinstance(processor, Exception):
            raise ConfigError(f"--logit-processor {path} can not be loaded: {type(processor).__name__}: {processor}")
        processors[name] = processor
    return processors


def _load(path: str) -> LogitProcessor:
    module_name, _, class_name = path.rpartition(":")
    if not module_name or not class_name.isidentifier():
        raise ValueError("it must be written package.module:Class")
    made = vars(importlib.import_module(module_name))[class_name]()
    if not callable(made.process):
        raise TypeError("`process` must be a method")
    return cast(LogitProcessor, made)


class ProcessorCall:
    """One request's use of a processor. `failure` is set once it has raised."""

    def __init__(self, name: str, processor: LogitProcessor, num_prompt_tokens: int, custom_params: Mapping[str, Any]) -> None:
        self.failure: Failure | None = None
        self._name = name
        self._processor = processor
        self._num_prompt_tokens = num_prompt_tokens
        self._custom_params = custom_params

    def apply(self, row: Row, token_ids: npt.NDArray[np.int32]) -> bool:
        """Let it change `row`. False if it raised, now or before."""
        if self.failure is None:
            process = partial(self._processor.process, row, token_ids, self._num_prompt_tokens, self._custom_params)
            error = outcome(process)
            if isinstance(error, Exception):
                log.error("the logit processor %s raised", self._name, exc_info=error)
                self.failure = _failed(self._name, error)
        return self.failure is None


def _failed(name: str, error: Exception) -> Failure:
    message = f"the logit processor {name!r} failed on this request: {type(error).__name__}"
    return InvalidRequest(message, param="custom_params", code="logit_processor_failed").failure
