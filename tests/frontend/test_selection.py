"""`select`: what is asked of the server, what counts as a choice's score, and the three methods."""

from __future__ import annotations

import math
from typing import Any

import pytest

import frontend as sgl
from frontend.backends.runtime_endpoint import RuntimeEndpoint
from frontend.errors import ProgramError, Unsupported
from frontend.scoring import mean_logprob
from tests.frontend.fake_server import WORDS, FakeServer, scores_of

CHOICES = ["yes", "no way", "perhaps it is so"]
METHODS = (sgl.token_length_normalized, sgl.greedy_token_selection, sgl.unconditional_likelihood_normalized)


def run(backend: RuntimeEndpoint, text: str = "Is it so? ", **options: Any) -> Any:
    return sgl.function(lambda s: s.__iadd__(text + sgl.select("answer", CHOICES, **options))).run(backend=backend)


def expected_scores(text: str) -> list[float]:
    """Of each choice, by its own words only."""
    num_words = len(WORDS.findall(text))
    return [mean_logprob(scores_of(WORDS.findall(text + choice), 0)[num_words:]) for choice in CHOICES]


@pytest.mark.parametrize("text", ["Is it so?", "Some other question, then:", "One:"])
def test_the_best_mean_wins(text: str, backend: RuntimeEndpoint) -> None:
    state = run(backend, text)
    scores = expected_scores(text)
    assert state["answer"] == CHOICES[scores.index(max(scores))]
    meta_info = state.get_meta_info("answer")
    assert meta_info["normalized_prompt_logprobs"] == pytest.approx(scores)
    assert state.text() == text + state["answer"]


@pytest.mark.parametrize("method", METHODS)
def test_servers_that_put_a_null_first_are_understood(
    method: Any, server: FakeServer, backend: RuntimeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = run(backend, choices_method=method)["answer"]
    newer: list[Any] = []

    def scores(words: list[str], start: int) -> list[Any]:
        newer.append(start)
        known = scores_of(words, 0)[max(start, 0) :]
        return [(None, *known[0][1:]), *known[1:]]

    monkeypatch.setattr("tests.frontend.fake_server.scores_of", scores)
    assert run(backend, choices_method=method)["answer"] == older
    assert newer


def test_a_text_that_merges_with_a_choice_keeps_its_first_token(server: FakeServer, backend: RuntimeEndpoint) -> None:
    """ "wo" + "no way" is read as one word: the text's last token is gone, so nothing is taken away."""
    state = run(backend, "Say wo")
    merged = state.get_meta_info("answer")["input_token_logprobs"][1]
    assert [token[2] for token in merged] == [" wono", " way"]


def test_one_word_at_the_very_beginning_has_no_score(backend: RuntimeEndpoint) -> None:
    assert "select needs text before it" in str(run(backend, "").error())


def test_the_unconditional_scores_are_asked_from_the_start(server: FakeServer, backend: RuntimeEndpoint) -> None:
    state = run(backend, choices_method=sgl.unconditional_likelihood_normalized)
    state.sync()
    assert server.bodies()[-1]["logprob_start_len"] == 0
    meta_info = state.get_meta_info("answer")
    gains = meta_info["normalized_unconditional_prompt_logprobs"]
    assert state["answer"] == CHOICES[gains.index(max(gains))]


def test_a_choice_is_never_drawn(backend: RuntimeEndpoint) -> None:
    assert isinstance(run(backend, temperature=0.7).error(), Unsupported)


@pytest.mark.parametrize("choices", [None, [], "yes", ["a", ""], ["a", 3]])
def test_what_are_no_choices(choices: Any) -> None:
    with pytest.raises(ProgramError, match="choices"):
        sgl.select("answer", choices)


def test_gen_with_choices_is_select(backend: RuntimeEndpoint) -> None:
    program = sgl.function(lambda s: s.__iadd__("Is it so? " + sgl.gen("answer", choices=CHOICES)))
    assert program.run(backend=backend)["answer"] == run(backend)["answer"]


def decide(method: Any, scores: list[list[float]]) -> Any:
    triples = [[[value, 0, ""] for value in values] for values in scores]
    return method(
        choices=[str(index) for index in range(len(scores))],
        normalized_prompt_logprobs=[sum(values) / len(values) for values in scores],
        input_token_logprobs=triples,
        output_token_logprobs=[[] for _ in scores],
        unconditional_token_logprobs=[[[None, 0, ""], *tokens[1:]] for tokens in triples],
    )


def test_greedy_compares_token_by_token_and_pads_with_the_mean() -> None:
    decision = decide(sgl.greedy_token_selection, [[-1.0, -9.0], [-1.0], [-2.0, 0.0]])
    assert decision.decision == "1"
    assert decision.meta_info["greedy_logprob_matrix"] == [[-1.0, -9.0], [-1.0, -1.0], [-2.0, 0.0]]


def test_ties_go_to_the_first() -> None:
    for method in METHODS:
        assert decide(method, [[-1.0], [-1.0]]).decision == "0"


def test_a_score_of_zero_does_not_count() -> None:
    assert mean_logprob([(0.0, 1, "a"), (-2.0, 2, "b")]) == -2.0
    assert not math.isnan(mean_logprob([(0.0, 1, "a")]))
