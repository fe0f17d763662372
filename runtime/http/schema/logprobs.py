"""Limits on the log probabilities that a request may ask for, the same at all doors."""

from __future__ import annotations

from collections.abc import Collection

from runtime.errors import InvalidRequest
from runtime.http.info import ServerInfo
from runtime.http.schema.prompts import check_token_ids

MAX_TOP_LOGPROBS = 20
MAX_LOGPROB_TOKEN_IDS = 128


def check_num_top(num_top: int, param: str) -> None:
    """Raise `InvalidRequest` if `num_top` likeliest tokens are too many."""
    if not 0 <= num_top <= MAX_TOP_LOGPROBS:
        raise InvalidRequest(f"{param} must be in [0, {MAX_TOP_LOGPROBS}]", param=param)


def check_logprob_token_ids(token_ids: Collection[int], param: str, info: ServerInfo) -> None:
    """Raise `InvalidRequest` if they are too many or the logits have no column for one."""
    if len(token_ids) > MAX_LOGPROB_TOKEN_IDS:
        raise InvalidRequest(f"at most {MAX_LOGPROB_TOKEN_IDS} token ids are allowed in {param}", param=param)
    check_token_ids(token_ids, param, info)
