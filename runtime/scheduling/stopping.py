"""When a sequence ends: by count, then by token id. Stop strings are the Detokenizer's, which sees text.

The order is SGLang's: the count comes first, even if the last token is an end-of-sequence id. `ignore_eos` switches off
all ids, the client's own `stop_token_ids` too.
"""

from __future__ import annotations

from runtime.messages import Finish
from runtime.params import SamplingParams
from runtime.scheduling.request import Request


def stop_ids(params: SamplingParams, eos_token_ids: frozenset[int]) -> frozenset[int]:
    """The ids that end a sequence with these parameters."""
    if params.ignore_eos:
        return frozenset()
    return eos_token_ids.union(params.stop_token_ids) if params.stop_token_ids else eos_token_ids


def masked_ids(request: Request) -> tuple[int, ...]:
    """Ids that the sampler has to keep out until `min_new_tokens` are generated."""
    return tuple(sorted(request.stop_ids)) if request.params.min_new_tokens > 0 else ()


def finish_after(request: Request, token_id: int) -> Finish | None:
    """Why the sequence ends with `token_id`, which is the last of `output_ids`; None if it goes on.

    A full context needs no rule of its own: `max_new_tokens` is never more than what fits in it.
    """
    if len(request.output_ids) >= request.max_new_tokens:
        return Finish("length", length=request.max_new_tokens)
    if token_id in request.stop_ids:
        return Finish("stop", matched=token_id)
    return None
