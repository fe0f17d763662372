"""What `/generate` answers, for the OpenAPI document; native_format.py writes it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

Triple = Annotated[list[float | int | str | None], msgspec.Meta(min_length=3, max_length=3)]
"""Log probability, token id, text."""


class MetaInfo(msgspec.Struct, kw_only=True):
    id: str
    finish_reason: dict[str, Any]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    e2e_latency: float
    input_token_logprobs: list[Triple] | msgspec.UnsetType = msgspec.UNSET
    input_top_logprobs: list[list[Triple] | None] | msgspec.UnsetType = msgspec.UNSET
    input_token_ids_logprobs: list[list[Triple] | None] | msgspec.UnsetType = msgspec.UNSET
    output_token_logprobs: list[Triple] | msgspec.UnsetType = msgspec.UNSET
    output_token_logprobs_length: int | msgspec.UnsetType = msgspec.UNSET
    output_top_logprobs: list[list[Triple]] | msgspec.UnsetType = msgspec.UNSET
    output_token_ids_logprobs: list[list[Triple]] | msgspec.UnsetType = msgspec.UNSET
    hidden_states: list[Any] | msgspec.UnsetType = msgspec.UNSET


class GenerateResult(msgspec.Struct, kw_only=True):
    """`text`, but `token_ids` where the server has no tokenizer."""

    output_ids: list[int]
    meta_info: MetaInfo
    text: str | msgspec.UnsetType = msgspec.UNSET
    token_ids: list[int] | msgspec.UnsetType = msgspec.UNSET


GenerateReply = GenerateResult | list[GenerateResult]
"""A list for a list of prompts, and for several choices."""


class Predictions(msgspec.Struct):
    """What `/vertex_generate` answers."""

    predictions: GenerateReply
