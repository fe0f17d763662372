"""The sampler over batches: greedy is argmax, rows do not notice each other, bad rows stay alone."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import torch

from runtime.messages import INVALID_TOKEN
from runtime.params import SamplingParams
from runtime.sampling.sampler import SpecialRow, sample
from runtime.sampling.steps import make_rules

VOCAB_SIZE = 5000
GREEDY = SamplingParams(temperature=0.0)
PARAMS = (
    SamplingParams(seed=1),
    SamplingParams(seed=2, temperature=0.6, top_p=0.95),
    SamplingParams(seed=3, top_k=40),
    SamplingParams(seed=4, top_p=0.5, min_p=0.02),
    SamplingParams(seed=5, frequency_penalty=1.0, repetition_penalty=1.2),
    SamplingParams(seed=6, temperature=0.0, logit_bias={17: 3.0}),
    SamplingParams(seed=7, temperature=3.0, top_p=0.99),
)


def logits_of(num_rows: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((num_rows, VOCAB_SIZE)).astype(np.float32) * 4)


def special(
    index: int, params: SamplingParams, history: tuple[int, ...] = (1, 2, 3), masked: tuple[int, ...] = ()
) -> SpecialRow:
    rules = make_rules(params, num_prompt_tokens=2, masked_token_ids=masked, vocab_size=VOCAB_SIZE)
    return SpecialRow(index, rules, np.array(history, dtype=np.int32))


def test_rows_without_rules_are_argmax() -> None:
    logits = logits_of(33)
    assert sample(logits, []).tolist() == logits.argmax(-1).tolist()


def test_of_equal_logits_the_first_wins() -> None:
    logits = torch.zeros(2, VOCAB_SIZE)
    logits[1, [4000, 77, 4999]] = 2.5
    assert sample(logits, []).tolist() == [0, 77]
    assert sample(logits, [special(1, SamplingParams(temperature=0.0, logit_bias={3: 1.0}))]).tolist() == [0, 77]


def test_no_rows() -> None:
    assert sample(torch.empty(0, VOCAB_SIZE), []).tolist() == []


@pytest.mark.parametrize("params", [SamplingParams(temperature=0.0), SamplingParams(temperature=5.0, top_k=1)])
def test_greedy_with_edits_is_the_argmax_after_them(params: SamplingParams) -> None:
    logits = logits_of(1)
    best = int(logits.argmax())
    chosen = sample(logits.clone(), [special(0, params, history=(best, best), masked=(best,))])
    assert chosen.tolist() == [best], "no penalty, enough tokens"
    biased = SamplingParams(temperature=params.temperature, top_k=params.top_k, logit_bias={4321: 100.0})
    assert sample(logits.clone(), [special(0, biased)]).tolist() == [4321]


def test_masked_ids_are_not_chosen_while_too_few_tokens_are_there() -> None:
    logits = logits_of(1)
    second, best = logits[0].argsort()[-2:].tolist()
    params = SamplingParams(temperature=0.0, min_new_tokens=2)
    assert sample(logits.clone(), [special(0, params, history=(1, 2, 3), masked=(best,))]).tolist() == [second]
    assert sample(logits.clone(), [special(0, params, history=(1, 2, 3, 4), masked=(best,))]).tolist() == [best]


@pytest.mark.parametrize("num_neighbours", [1, 6, 31])
def test_a_row_does_not_depend_on_its_neighbours(num_neighbours: int) -> None:
    rows = logits_of(len(PARAMS), seed=3)
    alone = [sample(rows[i : i + 1].clone(), [special(0, params)]).item() for i, params in enumerate(PARAMS)]
    neighbours = logits_of(num_neighbours, seed=4)
    batch = torch.cat([neighbours, rows.flip(0)])
    specials = [special(num_neighbours + i, params) for i, params in enumerate(reversed(PARAMS))]
    specials += [special(0, SamplingParams(seed=99, top_p=0.7))]
    together = sample(batch, specials)
    assert together[num_neighbours:].tolist() == alone[::-1]


def test_a_draw_depends_on_seed_and_position() -> None:
    logits = torch.zeros(1, VOCAB_SIZE)

    def drawn(seed: int, num_tokens: int) -> int:
        return int(sample(logits.clone(), [special(0, SamplingParams(seed=seed), history=(1,) * num_tokens)])[0])

    assert drawn(1, 5) == drawn(1, 5)
    assert len({drawn(1, 5), drawn(2, 5), drawn(1, 6), drawn(2, 6)}) == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [0, 1234, VOCAB_SIZE - 1])
@pytest.mark.parametrize("params", [GREEDY, *PARAMS], ids=lambda params: f"seed {params.seed}")
def test_a_row_that_is_not_finite_fails_alone(bad: float, at: int, params: SamplingParams) -> None:
    logits = logits_of(3)
    # A mask must not hide the bad logit.
    masking = msgspec.structs.replace(params, min_new_tokens=9)
    specials = [special(i, masking, masked=(at,)) for i in range(3)]
    expected = sample(logits.clone(), specials)
    logits[1, at] = bad
    chosen = sample(logits, specials)
    assert chosen.tolist() == [expected[0], INVALID_TOKEN, expected[2]]


def test_nothing_left_to_choose_from() -> None:
    logits = torch.full((3, VOCAB_SIZE), -torch.inf)
    logits[2, 8] = 1.0
    masking = SamplingParams(min_new_tokens=9)
    chosen = sample(logits, [special(0, SamplingParams()), special(2, masking, masked=(8,))])
    assert chosen.tolist() == [INVALID_TOKEN] * 3


@pytest.mark.parametrize("params", PARAMS, ids=lambda params: f"seed {params.seed}")
def test_impossible_tokens_are_never_chosen(params: SamplingParams) -> None:
    logits = torch.full((1, VOCAB_SIZE), -torch.inf)
    logits[0, [40, 4040]] = torch.tensor([1.0, 2.0])
    history = tuple(range(100))
    for num_tokens in range(3, 60):
        assert sample(logits.clone(), [special(0, params, history=history[:num_tokens])]).item() in (40, 4040)


def test_an_added_edit_runs_with_the_others() -> None:
    def only_seven(row: np.ndarray, rules: object, history: object) -> None:
        row[np.arange(len(row)) != 7] = -np.inf

    assert sample(logits_of(1), [special(0, SamplingParams())], edits=(only_seven,)).tolist() == [7]
