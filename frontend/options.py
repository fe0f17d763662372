"""What `run` and `run_batch` can be told besides the program's own arguments. The names are SGLang's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

from frontend.sampling import DEFAULTS, Sampling, as_ids, as_stop


class SamplingOptions(TypedDict, total=False):
    """Defaults for all generations of the program; `gen` has its own in their place. None means the default."""

    max_new_tokens: int | None
    """128"""
    stop: str | list[str] | None
    stop_token_ids: list[int] | None
    temperature: float | None
    """1.0"""
    top_p: float | None
    top_k: int | None
    min_p: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    ignore_eos: bool | None
    return_logprob: bool | None
    logprob_start_len: int | None
    top_logprobs_num: int | None
    return_text_in_logprobs: bool | None


SAMPLING_NAMES = tuple(SamplingOptions.__annotations__)
RUN_NAMES = (*SAMPLING_NAMES, "stream", "backend", "use_thread")


class BatchOptions(SamplingOptions, total=False):
    """Of `run_batch`."""

    backend: Any
    num_threads: int | Literal["auto"]
    """How many programs run at a time."""
    progress_bar: bool
    checkpoint: str | Path | None
    """A file; a batch that is run again with it does only what is missing."""


def taken_from(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Remove what `run` understands from the program's keyword arguments, and return it."""
    return {name: kwargs.pop(name) for name in RUN_NAMES if name in kwargs}


def sampling_of(options: Mapping[str, Any]) -> Sampling:
    said = {name: options.get(name) for name in SAMPLING_NAMES}
    said["stop"], said["stop_token_ids"] = as_stop(said["stop"]), as_ids(said["stop_token_ids"])
    return Sampling(**said).over(DEFAULTS)
