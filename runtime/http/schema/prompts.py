"""Prompts as clients write them: a text, token ids, or a list of either."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from runtime.errors import ContextLengthExceeded, InvalidRequest
from runtime.http.info import ServerInfo
from runtime.params import Prompt, TextPrompt, TokenPrompt

MAX_SEQUENCES = 256
"""Prompts times choices of one HTTP request."""

RawPrompt = str | list[str | int | list[int]]


def parse_prompts(raw: RawPrompt, param: str, info: ServerInfo) -> list[Prompt]:
    """Every prompt in `raw`, checked. Raises `InvalidRequest` that names the offending item."""
    if isinstance(raw, str):
        return [_text_prompt(raw, param)]
    if not raw:
        raise InvalidRequest(f"{param} must not be empty", param=param)
    if isinstance(raw[0], int):
        return [_token_prompt(raw, param, info)]
    check_num_sequences(len(raw), param)
    return [_parse_item(item, f"{param}[{position}]", info) for position, item in enumerate(raw)]


def check_num_sequences(num_sequences: int, param: str) -> None:
    """Raise `InvalidRequest` if one request asks for more sequences than are allowed."""
    if num_sequences > MAX_SEQUENCES:
        raise InvalidRequest(f"at most {MAX_SEQUENCES} sequences (prompts x n) fit in a request", param=param)


def check_token_ids(token_ids: Collection[int], param: str, info: ServerInfo) -> None:
    """Raise `InvalidRequest` unless the logits have a column for each of `token_ids`."""
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < info.vocab_size:
        raise InvalidRequest(f"token ids in {param} must be in [0, {info.vocab_size - 1}]", param=param)


def _parse_item(item: str | int | list[int], param: str, info: ServerInfo) -> Prompt:
    if isinstance(item, str):
        return _text_prompt(item, param)
    if isinstance(item, list):
        return _token_prompt(item, param, info)
    raise InvalidRequest(f"{param} mixes a token id with whole prompts", param=param)


def _text_prompt(text: str, param: str) -> TextPrompt:
    if not text:
        raise InvalidRequest(f"{param} must not be empty", param=param)
    return TextPrompt(text, param)


def _token_prompt(items: Sequence[str | int | list[int]], param: str, info: ServerInfo) -> TokenPrompt:
    """The length is checked first, so that the cost of the other checks is bounded."""
    if not items:
        raise InvalidRequest(f"{param} must not be empty", param=param)
    if len(items) >= info.context_length:
        message = f"{param} has {len(items)} tokens, but the model's context is {info.context_length} tokens"
        raise ContextLengthExceeded(message, param=param)
    token_ids = tuple(item for item in items if isinstance(item, int))
    if len(token_ids) != len(items):
        raise InvalidRequest(f"{param} mixes token ids with whole prompts", param=param)
    check_token_ids(token_ids, param, info)
    return TokenPrompt(token_ids, param)
