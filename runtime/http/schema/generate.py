"""The body of `/generate`, SGLang's native endpoint: one prompt or a batch, each with options of its own.

What a batch may hold a value of for each prompt is left unread until the number of prompts is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from runtime.errors import InvalidRequest, Unsupported
from runtime.http.generation import Generation
from runtime.http.info import ServerInfo
from runtime.http.schema.choices import Caller, check_num_choices, choices_of
from runtime.http.schema.decoding import UNREAD, Label, Priority, Unread, decode_field, is_null, is_set, refuse
from runtime.http.schema.grammar import grammar_of
from runtime.http.schema.lists import MAX_SEQUENCES, is_list, list_of, values_of
from runtime.http.schema.native_logprobs import LogprobFields, LogprobWish, logprob_wishes
from runtime.http.schema.prompts import RawPrompt, check_num_sequences, is_token_ids, parse_prompts
from runtime.http.schema.sampling import (
    CustomParams,
    SamplingFields,
    check_logit_processor,
    check_options,
    custom_params_of,
    sampling_params_of,
    text_options_of,
)
from runtime.params import Prompt, TextPrompt, TokenPrompt

DEFAULT_MAX_NEW_TOKENS = 128
MAX_SAMPLING_BYTES = 2**20
MAX_LABEL_BYTES = 4 * 2**10
MAX_PROCESSOR_BYTES = 64 * 2**10
MAX_SESSION_BYTES = 16 * 2**10

NOT_YET: dict[str, tuple[Any, ...]] = {
    "image_data": ("", []),
    "video_data": ("", []),
    "audio_data": ("", []),
    "input_embeds": ([],),
    "return_prompt_token_ids": (False,),
    "return_routed_experts": (False,),
    "return_sampling_mask": (False,),
    "return_entropy": (False,),
    "lora_path": (),
    "session_id": (),
    "cache_salt": ("",),
    "extra_key": ("",),
    "max_thinking_tokens": (),
    "background": (False,),
}
"""Fields of features that are not there, with the values (besides null) that do not ask for them."""

PER_ITEM = frozenset({"image_data", "video_data", "audio_data", "lora_path", "cache_salt", "extra_key"})

SAMPLING_NOT_YET: dict[str, tuple[Any, ...]] = {
    "stop_regex": ("", []),
    "beam_width": (1,),
    "watermark": (False,),
    "stream_interval": (),
}


class NativeSampling(SamplingFields, kw_only=True, forbid_unknown_fields=True):
    """`sampling_params`. Null means default, but for `max_new_tokens`, where it means: fill the context."""

    max_new_tokens: int | None = DEFAULT_MAX_NEW_TOKENS
    min_new_tokens: int | None = None
    sampling_seed: int | None = None
    custom_params: CustomParams = UNREAD

    stop_regex: Unread = UNREAD
    beam_width: Unread = UNREAD
    watermark: Unread = UNREAD
    stream_interval: Unread = UNREAD


class SessionParams(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where a prompt continues: after the request `rid` of the session `id`, or from scratch without one."""

    id: Label
    rid: Label | None = None
    offset: int | None = None
    replace: bool | None = None
    drop_previous_output: bool | None = None


_SAMPLING = {"$ref": "#/components/schemas/NativeSampling"}
Samplings = Annotated[
    Unread,
    msgspec.Meta(
        extra_json_schema={
            "anyOf": [_SAMPLING, {"type": "array", "items": _SAMPLING, "maxItems": MAX_SEQUENCES}, {"type": "null"}]
        }
    ),
]
Labels = Annotated[
    Unread,
    msgspec.Meta(
        extra_json_schema={
            "type": ["string", "array", "null"],
            "maxLength": 256,
            "items": {"type": "string", "maxLength": 256},
            "maxItems": MAX_SEQUENCES,
        }
    ),
]
Flags = Annotated[
    Unread,
    msgspec.Meta(extra_json_schema={"type": ["boolean", "array", "null"], "items": {"type": ["boolean", "null"]}}),
]
Names = Annotated[
    Unread, msgspec.Meta(extra_json_schema={"type": ["string", "array", "null"], "items": {"type": ["string", "null"]}})
]
Session = Annotated[
    Unread, msgspec.Meta(extra_json_schema={"anyOf": [{"$ref": "#/components/schemas/SessionParams"}, {"type": "null"}]})
]


class GenerateRequest(LogprobFields, kw_only=True, forbid_unknown_fields=True):
    """`input_ids` wins over `text`. The last block of fields is accepted and has no effect."""

    text: RawPrompt = UNREAD
    input_ids: RawPrompt = UNREAD
    sampling_params: Samplings = UNREAD
    rid: Labels = UNREAD
    stream: bool | None = None
    priority: Priority | None = None
    log_metrics: bool | None = None
    return_hidden_states: Flags = UNREAD
    custom_logit_processor: Names = UNREAD
    session_params: Session = UNREAD

    image_data: Unread = UNREAD
    video_data: Unread = UNREAD
    audio_data: Unread = UNREAD
    input_embeds: Unread = UNREAD
    return_prompt_token_ids: Unread = UNREAD
    return_routed_experts: Unread = UNREAD
    return_sampling_mask: Unread = UNREAD
    return_entropy: Unread = UNREAD
    lora_path: Unread = UNREAD
    session_id: Unread = UNREAD
    cache_salt: Unread = UNREAD
    extra_key: Unread = UNREAD
    max_thinking_tokens: Unread = UNREAD
    background: Unread = UNREAD

    model: Unread = UNREAD
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
    """The sequences in the order of the reply, whether that is a list, and what is to be said about each."""

    generations: list[Generation]
    is_batch: bool
    returns_texts: bool = False
    """Whether log probabilities come with the text of their tokens."""
    shows_ids_only: bool = False
    """Whether the server has no tokenizer, so that there is no text."""
    lone_token_only: tuple[bool, ...] = ()
    """For each sequence, whether log probabilities of the prompt are shown only of a prompt that is one token."""


def generations_of(request: GenerateRequest, caller: Caller, prompt: Prompt | None = None) -> NativeGenerations:
    """The sequences to generate, prompt by prompt; of `prompt` if it is known already. Raises `RequestError`."""
    refuse(request, NOT_YET, per_item=PER_ITEM)
    prompts, is_list_reply = ([prompt], False) if prompt is not None else prompts_of(request, caller.info)
    options = _options(request, prompts, caller.info)
    n = _num_choices([sampling for sampling, *_ in options])
    check_num_sequences(n * len(prompts), "sampling_params.n")
    generations: list[Generation] = []
    for one, (sampling, place, wish, returns_hidden_states, processor) in zip(prompts, options, strict=True):
        template = _template(request, one, sampling, place, processor, caller.info)
        template = msgspec.structs.replace(template, logprobs=wish.options, returns_hidden_states=returns_hidden_states)
        generations += choices_of(template, n, sampling.sampling_seed, caller.draw_seed)
    labels = _labels(request.rid, n, len(prompts), caller.label)
    return NativeGenerations(
        generations=[msgspec.structs.replace(one, label=label) for one, label in zip(generations, labels, strict=True)],
        is_batch=is_list_reply or n > 1,
        returns_texts=bool(request.return_text_in_logprobs),
        shows_ids_only=caller.info.skips_tokenizer,
        lone_token_only=tuple(wish.lone_token_only for _, _, wish, _, _ in options for _ in range(n)),
    )


def prompts_of(request: GenerateRequest, info: ServerInfo) -> tuple[list[Prompt], bool]:
    """The prompts, and whether they came as a list. Raises `InvalidRequest`."""
    if not is_null(request.input_ids):
        prompts = parse_prompts(request.input_ids, "input_ids", info)
        _check_kind(prompts, TokenPrompt, "input_ids", "token ids")
        return prompts, not is_token_ids(request.input_ids)
    if is_null(request.text):
        raise InvalidRequest("a prompt is needed in text or input_ids", param="text")
    prompts = parse_prompts(request.text, "text", info)
    _check_kind(prompts, TextPrompt, "text", "text")
    return prompts, is_list(request.text)


def _check_kind(prompts: Sequence[Prompt], kind: type[TextPrompt | TokenPrompt], param: str, what: str) -> None:
    for prompt in prompts:
        if not isinstance(prompt, kind):
            raise InvalidRequest(f"{param} must hold {what}", param=param)


def session_params_of(request: GenerateRequest) -> SessionParams | None:
    """Which session the request belongs to, if any. Raises `InvalidRequest`."""
    if not is_set(request.session_params):
        return None
    return decode_field(request.session_params, SessionParams, "session_params", MAX_SESSION_BYTES)


Options = tuple[NativeSampling, str, LogprobWish, bool, str | None]
"""Of one prompt: sampling parameters, where they stand, log probabilities, hidden states, logit processor."""


def _options(request: GenerateRequest, prompts: Sequence[Prompt], info: ServerInfo) -> list[Options]:
    num_prompts = len(prompts)
    samplings = _samplings(request.sampling_params, num_prompts)
    wishes = logprob_wishes(request, prompts, info)
    hidden = values_of(request.return_hidden_states, bool, num_prompts, "return_hidden_states", 8)
    processors = values_of(request.custom_logit_processor, str, num_prompts, "custom_logit_processor", MAX_PROCESSOR_BYTES)
    return [
        (sampling, place, wish, bool(returns), check_logit_processor(processor, info, "custom_logit_processor"))
        for (sampling, place), wish, returns, processor in zip(samplings, wishes, hidden, processors, strict=True)
    ]


def _samplings(field: Samplings, num_prompts: int) -> list[tuple[NativeSampling, str]]:
    """With where each stands in the body. A single value counts for every prompt."""
    name = "sampling_params"
    if not is_list(field):
        sampling = NativeSampling() if is_null(field) else decode_field(field, NativeSampling, name, MAX_SAMPLING_BYTES)
        return [(sampling, f"{name}.")] * num_prompts
    values = list_of(field, NativeSampling, num_prompts, name, MAX_SAMPLING_BYTES)
    return [(sampling or NativeSampling(), f"{name}[{position}].") for position, sampling in enumerate(values)]


def _num_choices(samplings: Sequence[NativeSampling]) -> int:
    numbers = {check_num_choices(sampling.n, "sampling_params.n") for sampling in samplings}
    if len(numbers) != 1:
        raise InvalidRequest("n must be the same for all prompts of a batch", param="sampling_params.n")
    return numbers.pop()


def _labels(field: Labels, n: int, num_prompts: int, label: str) -> list[str]:
    """The client's ids if there is one for each prompt, repeated for its choices; else ours with a number."""
    num_sequences = n * num_prompts
    if is_null(field):
        return [label] if num_sequences == 1 else [f"{label}-{index}" for index in range(num_sequences)]
    labels = values_of(field, Label, num_prompts, "rid", MAX_LABEL_BYTES)
    return [name or label for name in labels for _ in range(n)]


def _template(
    request: GenerateRequest, prompt: Prompt, sampling: NativeSampling, place: str, processor: str | None, info: ServerInfo
) -> Generation:
    refuse(sampling, SAMPLING_NOT_YET, place)
    params = sampling_params_of(
        sampling,
        max_new_tokens=sampling.max_new_tokens,
        min_new_tokens=sampling.min_new_tokens,
        seed=sampling.sampling_seed,
        prefix=place,
        logit_processor=processor,
        custom_params=custom_params_of(sampling.custom_params, place + "custom_params"),
    )
    text = text_options_of(sampling, place)
    grammar = grammar_of(sampling, place)
    if info.skips_tokenizer and (text.stop or grammar):
        raise Unsupported("this server has no tokenizer, which stop strings and grammars need", param=place + "stop")
    check_options(params, text, info, names={"seed": "sampling_seed"}, prefix=place)
    return Generation(
        prompt=prompt,
        params=params,
        text=text,
        grammar=grammar,
        priority=request.priority or 0,
        is_counted=request.log_metrics is not False,
    )
