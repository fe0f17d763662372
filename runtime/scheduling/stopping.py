"""When a sequence ends: by its grammar, by count, then by token id. Stop strings are the Detokenizer's, which sees text.

The order is SGLang's: the count comes before the ids, even if the last token is an end-of-sequence id. `ignore_eos` switches
off all ids, the client's own `stop_token_ids` too. A grammar that is complete comes first: what it promised is all there.
"""

from __future__ import annotations

from runtime.messages import Finish, RowExtra
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


def take_tokens(request: Request, token_id: int, extra: RowExtra | None) -> tuple[tuple[int, ...], Finish | None]:
    """Add a sampled token and those that its grammar forces to the output, as far as the sequence goes.

    Returns the tokens that were added, and why the sequence ends with the last of them.
    """
    if extra is None:
        request.output_ids.append(token_id)
        return (token_id,), finish_after(request, token_id)
    token_ids = (token_id, *extra.forced_ids)
    for num_taken, taken_id in enumerate(token_ids, 1):
        request.output_ids.append(taken_id)
        finish = finish_after(request, taken_id)
        if num_taken == len(token_ids) and extra.is_complete:
            is_stop_id = finish is not None and finish.type == "stop"
            return token_ids, finish if is_stop_id else Finish("stop")
        if finish is not None:
            return token_ids[:num_taken], finish
    return token_ids, None
