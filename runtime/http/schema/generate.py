"""The body of `/generate`, SGLang's native endpoint: one prompt or a batch, each with sampling parameters of its own."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import msgspec

from runtime.errors import InvalidRequest
from runtime.http.generation import Generation
from runtime.http.info import ServerInfo
from runtime.http.schema.choices import Caller, check_num_choices, choices_of
from runtime.http.schema.decoding import UNREAD, Label, Priority, Unread, refuse
from runtime.http.schema.prompts import check_num_sequences, parse_prompts
from runtime.http.schema.sampling import SamplingFields, check_options, sampling_params_of, text_options_of
from runtime.params import Prompt

DEFAULT_MAX_NEW_TOKENS = 128

NOT_YET: dict[str, tuple[Any, ...]] = {
    "image_data": ("", []),
    "video_data": ("", []),
    "audio_data": ("", []),
    "input_embeds": ([],),
    "return_logprob": (False,),
    "top_logprobs_num": (0,),
    "token_ids_logprob": ([],),
    "return_hidden_states": (False,),
    "return_prompt_token_ids": (False,),
    "return_routed_experts": (False,),
    "return_sampling_mask": (False,),
    "return_entropy": (False,),
    "lora_path": (),
    "session_params": ({},),
    "session_id": (),
    "custom_logit_processor": (),
    "cache_salt": ("",),
    "extra_key": ("",),
    "max_thinking_tokens": (),
    "background": (False,),
}
"""Fields of features that are not there, with the values (besides null) that do not ask for them."""

SAMPLING_NOT_YET: dict[str, tuple[Any, ...]] = {
    "json_schema": ("",),
    "regex": ("",),
    "ebnf": ("",),
    "structural_tag": ("",),
    "stop_regex": ("", []),
    "custom_params": ({},),
    "beam_width": (1,),
    "watermark": (False,),
    "stream_interval": (),
}


class NativeSampling(SamplingFields, kw_only=True, forbid_unknown_fields=True):
    """`sampling_params`. Null means default, but for `max_new_tokens`, where it means: fill the context."""

    max_new_tokens: int | None = DEFAULT_MAX_NEW_TOKENS
    min_new_tokens: int | None = None
    sampling_seed: int | None = None

    json_schema: Unread = UNREAD
    regex: Unread = UNREAD
    ebnf: Unread = UNREAD
    structural_tag: Unread = UNREAD
    stop_regex: Unread = UNREAD
    custom_params: Unread = UNREAD
    beam_width: Unread = UNREAD
    watermark: Unread = UNREAD
    stream_interval: Unread = UNREAD


class GenerateRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`input_ids` wins over `text`. The last block of fields is accepted and has no effect."""

    text: str | list[str] | None = None
    input_ids: list[int | list[int]] | None = None
    sampling_params: NativeSampling | list[NativeSampling] | None = None
    rid: Label | list[Label] | None = None
    stream: bool | None = None
    priority: Priority | None = None
    log_metrics: bool | None = None

    image_data: Unread = UNREAD
    video_data: Unread = UNREAD
    audio_data: Unread = UNREAD
    input_embeds: Unread = UNREAD
    return_logprob: Unread = UNREAD
    top_logprobs_num: Unread = UNREAD
    token_ids_logprob: Unread = UNREAD
    return_hidden_states: Unread = UNREAD
    return_prompt_token_ids: Unread = UNREAD
    return_routed_experts: Unread = UNREAD
    return_sampling_mask: Unread = UNREAD
    return_entropy: Unread = UNREAD
    lora_path: Unread = UNREAD
    session_params: Unread = UNREAD
    session_id: Unread = UNREAD
    custom_logit_processor: Unread = UNREAD
    cache_salt: Unread = UNREAD
    extra_key: Unread = UNREAD
    max_thinking_tokens: Unread = UNREAD
    background: Unread = UNREAD

    model: Unread = UNREAD
    logprob_start_len: Unread = UNREAD
    return_text_in_logprobs: Unread = UNREAD
    modalities: Unread = UNREAD
    require_reasoning: Unread = UNREAD
    custom_labels: Unread = UNREAD
    no_logs: Unread = UNREAD
    bootstrap_host: Unread = UNREAD
    bootstrap_port: Unread = UNREAD
    bootstrap_room: Unread = UNREAD
    routed_dp_rank: Unread = UNREAD
    data_parallel_rank: Unread = UNREAD


class NativeGenerations(msgspec.Struct, frozen=True, kw_only=True):
    """The sequences in the order of the reply, and whether that is a list."""

    generations: list[Generation]
    is_batch: bool


def generations_of(request: GenerateRequest, caller: Caller) -> NativeGenerations:
    """The sequences to generate, prompt by prompt. Raises `RequestError`."""
    refuse(request, NOT_YET)
    prompts, is_list = _prompts(request, caller.info)
    samplings = _samplings(request, len(prompts))
    n = _num_choices(samplings)
    check_num_sequences(n * len(prompts), "sampling_params.n")
    generations: list[Generation] = []
    for prompt, sampling in zip(prompts, samplings, strict=True):
        template = _template(request, prompt, sampling, caller.info)
        generations += choices_of(template, n, sampling.sampling_seed, caller.draw_seed)
    labels = _labels(request.rid, n, len(generations), caller.label)
    labelled = [msgspec.structs.replace(one, label=label) for one, label in zip(generations, labels, strict=True)]
    return NativeGenerations(generations=labelled, is_batch=is_list or n > 1)


def _prompts(request: GenerateRequest, info: ServerInfo) -> tuple[list[Prompt], bool]:
    if request.input_ids is not None:
        prompts = parse_prompts(list(request.input_ids), "input_ids", info)
        return prompts, isinstance(request.input_ids[0], list)
    if request.text is not None:
        raw = request.text if isinstance(request.text, str) else list[str | int | list[int]](request.text)
        return parse_prompts(raw, "text", info), isinstance(request.text, list)
    raise InvalidRequest("a prompt is needed in text or input_ids", param="text")


def _samplings(request: GenerateRequest, num_prompts: int) -> list[NativeSampling]:
    """A single value counts for every prompt."""
    if not isinstance(request.sampling_params, list):
        return [request.sampling_params or NativeSampling()] * num_prompts
    _check_length(request.sampling_params, num_prompts, "sampling_params")
    return request.sampling_params


def _check_length(values: Sized, num_prompts: int, param: str) -> None:
    if len(values) != num_prompts:
        raise InvalidRequest(f"{param} has {len(values)} items for {num_prompts} prompts", param=param)


def _num_choices(samplings: list[NativeSampling]) -> int:
    numbers = {check_num_choices(sampling.n, "sampling_params.n") for sampling in samplings}
    if len(numbers) != 1:
        raise InvalidRequest("n must be the same for all prompts of a batch", param="sampling_params.n")
    return numbers.pop()


def _labels(rid: str | list[str] | None, n: int, num_sequences: int, label: str) -> list[str]:
    """The client's ids if there is one for each prompt, repeated for its choices; else ours with a number."""
    if isinstance(rid, list):
        _check_length(rid, num_sequences // n, "rid")
        return [name for name in rid for _ in range(n)]
    if rid is not None:
        return [rid] * num_sequences
    return [label] if num_sequences == 1 else [f"{label}-{index}" for index in range(num_sequences)]


def _template(request: GenerateRequest, prompt: Prompt, sampling: NativeSampling, info: ServerInfo) -> Generation:
    refuse(sampling, SAMPLING_NOT_YET, "sampling_params.")
    params = sampling_params_of(
        sampling,
        max_new_tokens=sampling.max_new_tokens,
        min_new_tokens=sampling.min_new_tokens,
        seed=sampling.sampling_seed,
    )
    text = text_options_of(sampling)
    check_options(params, text, info, names={"seed": "sampling_seed"}, prefix="sampling_params.")
    return Generation(
        prompt=prompt,
        params=params,
        text=text,
        priority=request.priority or 0,
        is_counted=request.log_metrics is not False,
    )
