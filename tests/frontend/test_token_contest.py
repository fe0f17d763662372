"""`select` of completion models as a pure state: against the recipe written down plainly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from frontend.token_contest import TokenContest

CHOICES = st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=1, max_size=5)


def plain(choices: list[list[int]], said: list[int]) -> list[int]:
    """SGLang's loop: the scores."""
    scores, valid = [0] * len(choices), [bool(choice) for choice in choices]
    for step in range(max(map(len, choices))):
        if not any(valid):
            break
        for index, choice in enumerate(choices):
            if valid[index]:
                agrees = choice[step] == said[step]
                scores[index] += agrees
                valid[index] = agrees and step < len(choice) - 1
        if sum(valid) <= 1:
            break
    return scores


@given(CHOICES, st.randoms(use_true_random=False))
def test_it_is_the_recipe(choices: list[list[int]], random: object) -> None:
    contest, said = TokenContest(choices), []
    while not contest.is_over and contest.candidates:
        said.append(random.choice(contest.candidates))  # type: ignore[attr-defined]
        contest.say(said[-1])
    assert contest.scores == plain(choices, said)
    assert contest.winner == contest.scores.index(max(contest.scores))


def test_the_longest_agreement_wins() -> None:
    contest = TokenContest([[1, 2, 3], [1, 2, 4], [5]])
    assert contest.candidates == [1, 5]
    contest.say(1)
    assert contest.candidates == [2]
    contest.say(2)
    assert contest.candidates == [3, 4]
    contest.say(4)
    assert contest.is_over
    assert (contest.winner, contest.scores) == (1, [2, 3, 0])
