"""Bodies and answers of `/generate`, which our server and our engine in this process have in common.

The bodies are those of SGLang 0.4.3's frontend, key by key.
"""

from __future__ import annotations

from typing import Any

from frontend.backend import Completion, Prompt, Usage
from frontend.errors import Unsupported
from frontend.sampling import Sampling, typed_as_regex
from frontend.settings import global_config

ALWAYS_SENT = (
    "max_new_tokens",
    "min_new_tokens",
    "stop",
    "stop_token_ids",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "ignore_eos",
    "regex",
    "json_schema",
)
SENT_IF_SAID = ("ebnf", "repetition_penalty", "sampling_seed")
SENT_BESIDE = ("return_logprob", "logprob_start_len", "top_logprobs_num", "return_text_in_logprobs")


def generation_body(prompt: Prompt, sampling: Sampling, *, is_streaming: bool = False) -> dict[str, Any]:
    sampling = typed_as_regex(sampling)
    params: dict[str, Any] = {
        "skip_special_tokens": global_config.skip_special_tokens_in_output,
        "spaces_between_special_tokens": global_config.spaces_between_special_tokens_in_out,
        **{name: getattr(sampling, name) for name in ALWAYS_SENT},
        **_said(sampling, SENT_IF_SAID),
    }
    body = {"text": prompt.text, "sampling_params": params, **_said(sampling, SENT_BESIDE)}
    if is_streaming:
        body["stream"] = True
    return with_images(body, prompt)


def warming_body(prompt: Prompt) -> dict[str, Any]:
    """A request that only computes the prompt."""
    return with_images({"text": prompt.text, "sampling_params": {"max_new_tokens": 0}}, prompt)


def with_images(body: dict[str, Any], prompt: Prompt) -> dict[str, Any]:
    """Raises `Unsupported` for more than one image, which `/generate` has no place for."""
    if len(prompt.images) > 1:
        raise Unsupported(f"only one image per prompt is supported, not {len(prompt.images)}")
    return {**body, "image_data": prompt.images[0]} if prompt.images else body


def completion_of(answer: dict[str, Any], num_known_chars: int = 0) -> Completion:
    """Streams tell all text again in each event: `num_known_chars` of it are known."""
    return Completion(answer["text"][num_known_chars:], answer["meta_info"], usage_of(answer))


def usage_of(answer: dict[str, Any]) -> Usage:
    meta_info = answer["meta_info"]
    return Usage(
        num_requests=1,
        num_prompt_tokens=meta_info.get("prompt_tokens", 0),
        num_completion_tokens=meta_info.get("completion_tokens", 0),
        num_cached_tokens=meta_info.get("cached_tokens", 0),
    )


def _said(sampling: Sampling, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(sampling, name)) is not None}
