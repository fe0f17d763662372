"""`select` by `/generate`: the choices are scored by the log probabilities of their tokens, after SGLang's recipe.

Scoring starts one token before the choices, because the text of a prompt and of a choice may become one token where they
meet ("token healing"): if the first scored token is the prompt's own, it does not count.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from frontend.backend import Prompt, Selection, Usage
from frontend.choices import ChoicesSamplingMethod, TokenScore
from frontend.errors import BackendError, Unsupported
from frontend.native import usage_of, warming_body, with_images

MAX_TEMPERATURE = 1e-5

Generate = Callable[[dict[str, Any]], Awaitable[Any]]
"""Answers a body of `/generate`."""


async def select(
    generate: Generate, prompt: Prompt, choices: list[str], temperature: float, method: ChoicesSamplingMethod
) -> Selection:
    """Raises `Unsupported` if the choice is to be drawn: only the best one can be found."""
    if temperature > MAX_TEMPERATURE:
        raise Unsupported(f"select finds the best choice: its temperature must be 0, not {temperature}")
    usage, start = Usage(), 0
    if prompt.text:
        prefix = await generate(warming_body(prompt))
        usage += usage_of(prefix)
        start = max(prefix["meta_info"]["prompt_tokens"] - 2, 0)
    answers = await generate(scoring_body(prompt, choices, start))
    for answer in answers:
        usage += usage_of(answer)
    scores = [_known(answer["meta_info"]["input_token_logprobs"]) for answer in answers]
    healed = [_healed(prompt.text, choice) for choice in scores]
    unconditional = None
    if method.requires_unconditional_logprobs:
        without = await generate(unconditional_body([tokens for _, tokens in healed]))
        for answer in without:
            usage += usage_of(answer)
        unconditional = [answer["meta_info"]["input_token_logprobs"] for answer in without]
    decision = method(
        choices=choices,
        normalized_prompt_logprobs=[mean for mean, _ in healed],
        input_token_logprobs=[tokens for _, tokens in healed],
        output_token_logprobs=[answer["meta_info"]["output_token_logprobs"] for answer in answers],
        unconditional_token_logprobs=unconditional,
    )
    return Selection(decision, usage)


def scoring_body(prompt: Prompt, choices: list[str], start: int) -> dict[str, Any]:
    body = {
        "text": [prompt.text + choice for choice in choices],
        "sampling_params": {"max_new_tokens": 0, "temperature": 0},
        "return_logprob": True,
        "return_text_in_logprobs": True,
        "logprob_start_len": start,
    }
    return with_images(body, prompt)


def unconditional_body(scores: list[list[TokenScore]]) -> dict[str, Any]:
    """SGLang's frontend leaves the start out, whose default gives no log probabilities of the prompt at all."""
    return {
        "input_ids": [[token[1] for token in tokens] for tokens in scores],
        "sampling_params": {"max_new_tokens": 0},
        "return_logprob": True,
        "logprob_start_len": 0,
    }


def _known(scores: list[TokenScore]) -> list[TokenScore]:
    """Without the null that newer servers, and all servers for the first token of a text, put first."""
    if scores and scores[0][0] is None:
        scores = scores[1:]
    if not scores:
        raise BackendError("a choice has no token that can be scored: select needs text before it")
    return scores


def _healed(text: str, scores: list[TokenScore]) -> tuple[float, list[TokenScore]]:
    """The mean score of the choice's tokens, and those, without a first one that is the end of `text`."""
    mean = mean_logprob(scores)
    if len(scores) < 2 or not text.endswith(scores[0][-1]):
        return mean, scores
    return (mean * len(scores) - scores[0][0]) / (len(scores) - 1), scores[1:]


def mean_logprob(scores: list[TokenScore]) -> float:
    """A log probability of exactly 0 does not count, as in SGLang."""
    values = [score[0] for score in scores if score[0]]
    return sum(values) / len(values) if values else 0.0
