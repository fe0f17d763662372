"""How `select` decides between choices whose tokens have been scored: the three methods of SGLang, and a base for others.

A token's score is a triple (log probability, token id, text). The methods are pure functions of such lists.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TokenScore = Sequence[Any]
"""(log probability or None, token id, text or None), as `/generate` gives it."""


@dataclass(frozen=True)
class ChoicesDecision:
    """`meta_info` is what `get_meta_info` gives the program."""

    decision: str
    meta_info: dict[str, Any] | None = None


class ChoicesSamplingMethod(ABC):
    """Decides between choices. Lists have one entry per choice, in order."""

    @property
    def requires_unconditional_logprobs(self) -> bool:
        """Whether the choices' tokens must also be scored without the text before them."""
        return False

    @abstractmethod
    def __call__(
        self,
        *,
        choices: list[str],
        normalized_prompt_logprobs: list[float],
        input_token_logprobs: list[list[TokenScore]],
        output_token_logprobs: list[list[TokenScore]],
        unconditional_token_logprobs: list[list[TokenScore]] | None = None,
    ) -> ChoicesDecision: ...


class TokenLengthNormalized(ChoicesSamplingMethod):
    """The choice with the highest mean log probability of its tokens."""

    def __call__(
        self,
        *,
        choices: list[str],
        normalized_prompt_logprobs: list[float],
        input_token_logprobs: list[list[TokenScore]],
        output_token_logprobs: list[list[TokenScore]],
        unconditional_token_logprobs: list[list[TokenScore]] | None = None,
    ) -> ChoicesDecision:
        meta_info = _scores(normalized_prompt_logprobs, input_token_logprobs, output_token_logprobs)
        return ChoicesDecision(choices[index_of_highest(normalized_prompt_logprobs)], meta_info)


class GreedyTokenSelection(ChoicesSamplingMethod):
    """The choice whose tokens win one after the other: of those with the best first token, the one with the best second.

    A choice that has no more tokens goes on with its mean, so that a choice can be the beginning of another.
    """

    def __call__(
        self,
        *,
        choices: list[str],
        normalized_prompt_logprobs: list[float],
        input_token_logprobs: list[list[TokenScore]],
        output_token_logprobs: list[list[TokenScore]],
        unconditional_token_logprobs: list[list[TokenScore]] | None = None,
    ) -> ChoicesDecision:
        num_tokens = max(len(scores) for scores in input_token_logprobs)
        matrix = [_padded([score[0] for score in scores], num_tokens) for scores in input_token_logprobs]
        meta_info = {
            **_scores(normalized_prompt_logprobs, input_token_logprobs, output_token_logprobs),
            "greedy_logprob_matrix": matrix,
        }
        return ChoicesDecision(choices[_greedy_winner(matrix)], meta_info)


class UnconditionalLikelihoodNormalized(ChoicesSamplingMethod):
    """The choice whose tokens gain most by the text before them: the highest mean of log probability with minus without it.

    The first token has no log probability without text before it, which counts as 0.
    """

    @property
    def requires_unconditional_logprobs(self) -> bool:
        return True

    def __call__(
        self,
        *,
        choices: list[str],
        normalized_prompt_logprobs: list[float],
        input_token_logprobs: list[list[TokenScore]],
        output_token_logprobs: list[list[TokenScore]],
        unconditional_token_logprobs: list[list[TokenScore]] | None = None,
    ) -> ChoicesDecision:
        if unconditional_token_logprobs is None:
            raise ValueError("Unconditional token logprobs are required for this method.")
        gains = [_mean_gain(*scores) for scores in zip(input_token_logprobs, unconditional_token_logprobs, strict=True)]
        meta_info = {
            **_scores(normalized_prompt_logprobs, input_token_logprobs, output_token_logprobs),
            "unconditional_token_logprobs": unconditional_token_logprobs,
            "normalized_unconditional_prompt_logprobs": gains,
        }
        return ChoicesDecision(choices[index_of_highest(gains)], meta_info)


def index_of_highest(values: Sequence[float]) -> int:
    """The first one, if several are equal."""
    return max(range(len(values)), key=values.__getitem__)


def _scores(
    normalized: list[float], input_tokens: list[list[TokenScore]], output_tokens: list[list[TokenScore]]
) -> dict[str, Any]:
    """What every method tells of the choices, by SGLang's names."""
    return {
        "normalized_prompt_logprobs": normalized,
        "input_token_logprobs": input_tokens,
        "output_token_logprobs": output_tokens,
    }


def _padded(logprobs: list[float], num_tokens: int) -> list[float]:
    mean = sum(logprobs) / len(logprobs)
    return logprobs + [mean] * (num_tokens - len(logprobs))


def _greedy_winner(matrix: list[list[float]]) -> int:
    remaining = list(range(len(matrix)))
    for column in range(len(matrix[0])):
        best = max(matrix[row][column] for row in remaining)
        remaining = [row for row in remaining if matrix[row][column] == best]
    return remaining[0]


def _mean_gain(scores: list[TokenScore], unconditional: list[TokenScore]) -> float:
    pairs = zip(scores, unconditional, strict=True)
    gains: list[float] = [score[0] - (without[0] or 0.0) for score, without in pairs]
    return sum(gains) / len(gains)


token_length_normalized = TokenLengthNormalized()
greedy_token_selection = GreedyTokenSelection()
unconditional_likelihood_normalized = UnconditionalLikelihoodNormalized()
