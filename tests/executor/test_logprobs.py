"""Log probabilities and hidden states through the executor, against transformers: prompt and output, whole and in chunks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from runtime.clock import SystemClock
from runtime.executor.port import ExecutorLimits
from runtime.executor.step_runner import StepRunner
from runtime.messages import RowExtra, SlotOpen, StepDone, StepPlan, StepRow, TokenLogprobs, joined_logprobs
from runtime.params import LogprobOptions, SamplingParams
from tests.executor.device_bench import DeviceBench
from tests.models.conftest import load_ours, save_random_model

LIMITS = ExecutorLimits(num_pages=64, page_size=4, num_slots=3, context_length=64, vocab_size=256)
PROMPT = tuple((7 * i + 3) % 256 for i in range(41))
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Pair:
    runner: StepRunner | DeviceBench
    expected: torch.Tensor
    """[tokens, vocab] log probabilities by transformers after each token of `PROMPT`."""
    hidden: torch.Tensor
    """[tokens, hidden]"""


@pytest.fixture(scope="module", params=["cpu", "device"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("llama")
    theirs = save_random_model(folder, "LlamaConfig")
    ours = load_ours(folder, num_positions=64)
    with torch.no_grad():
        output = theirs(torch.tensor([PROMPT]), output_hidden_states=True)
    kv = ours.kv_shape().allocate(LIMITS.num_pages + 1, LIMITS.page_size)
    runner = StepRunner(ours, kv, LIMITS, SystemClock()) if request.param == "cpu" else DeviceBench(ours, kv, LIMITS)
    return Pair(runner, output.logits[0].float().log_softmax(-1), output.hidden_states[-1][0])


def prefill(
    pair: Pair, options: LogprobOptions | None, chunks: list[int], *, start: int = 0, hidden: bool = False, **params: object
) -> tuple[int, list[RowExtra]]:
    """The token after `PROMPT`, and the extras of all chunks."""
    opening = SlotOpen(
        slot=1,
        token_ids=PROMPT,
        num_prompt_tokens=len(PROMPT),
        pages=tuple(range(20, 20 + 11)),
        params=SamplingParams(temperature=0.0, **params),  # type: ignore[arg-type]
        logprobs=options,
        returns_hidden_states=hidden,
    )
    extras: list[RowExtra] = []
    tokens: tuple[int, ...] = ()
    for step_id, num_tokens in enumerate(chunks):
        end = start + num_tokens
        rows = (StepRow(slot=1, start=start, num_tokens=num_tokens, sample=end == len(PROMPT)),)
        opens = () if step_id else (opening,)
        result = pair.runner.run(StepPlan(step_id=step_id, closes=() if step_id else (1,), opens=opens, rows=rows))
        assert isinstance(result, StepDone)
        extras += result.extras
        tokens = result.token_ids
        start = end
    return tokens[0], extras


def check(logprobs: TokenLogprobs, expected: torch.Tensor, options: LogprobOptions) -> None:
    """`expected` [entries, vocab] is about the entries of `logprobs`."""
    values = [expected[i, token_id].item() for i, token_id in enumerate(logprobs.token_ids)]
    np.testing.assert_allclose(logprobs.values, values, atol=TOLERANCE)
    assert len(logprobs.top) == (len(expected) if options.num_top else 0)
    assert len(logprobs.chosen) == (len(expected) if options.token_ids else 0)
    for row, top in zip(expected, logprobs.top, strict=False):
        best = row.topk(options.num_top)
        assert top is not None
        assert [token_id for token_id, _ in top] == best.indices.tolist()
        np.testing.assert_allclose([value for _, value in top], best.values, atol=TOLERANCE)
    for row, chosen in zip(expected, logprobs.chosen, strict=False):
        assert chosen is not None
        assert [token_id for token_id, _ in chosen] == list(options.token_ids)
        np.testing.assert_allclose([value for _, value in chosen], row[list(options.token_ids)], atol=TOLERANCE)


def prompt_part(extras: list[RowExtra]) -> TokenLogprobs:
    return joined_logprobs([extra.prompt_logprobs for extra in extras if extra.prompt_logprobs is not None])


@pytest.mark.parametrize("chunks", [[41], [1, 40], [20, 1, 20], [13, 13, 15]], ids=str)
@pytest.mark.parametrize("prompt_start", [0, 1, 2, 19, 20, 21, 39, 40])
def test_prompt_and_output_are_those_of_transformers(pair: Pair, chunks: list[int], prompt_start: int) -> None:
    options = LogprobOptions(num_top=3, token_ids=(5, 200), prompt_start=prompt_start)
    token_id, extras = prefill(pair, options, chunks)
    prompt = prompt_part(extras)
    assert prompt.token_ids == PROMPT[prompt_start:]
    if prompt_start == 0:
        assert (prompt.values[0], prompt.top[0], prompt.chosen[0]) == (None, None, None)
        prompt = TokenLogprobs(prompt.token_ids[1:], prompt.values[1:], prompt.top[1:], prompt.chosen[1:])
    check(prompt, pair.expected[max(prompt_start - 1, 0) : -1], options)
    sampled = extras[-1].logprobs
    assert sampled is not None
    assert sampled.token_ids == (token_id,)
    check(sampled, pair.expected[-1:], options)
    assert all(extra.logprobs is None for extra in extras[:-1])


@pytest.mark.parametrize("prompt_start", [41, 1000])
def test_a_start_behind_the_prompt_brings_nothing_of_it(pair: Pair, prompt_start: int) -> None:
    _, (extra,) = prefill(pair, LogprobOptions(prompt_start=prompt_start), [20, 21])
    assert extra.prompt_logprobs is None


def test_a_row_that_begins_behind_cached_tokens_begins_where_it_is_asked_to(pair: Pair) -> None:
    prefill(pair, None, [41])
    _, extras = prefill(pair, LogprobOptions(prompt_start=9), [33], start=8)
    prompt = prompt_part(extras)
    assert prompt.token_ids == PROMPT[9:]
    check(prompt, pair.expected[8:-1], LogprobOptions())


def test_they_are_of_the_models_own_logits(pair: Pair) -> None:
    """Bias and penalties change the choice, not what the model thinks of it."""
    options = LogprobOptions(num_top=2)
    token_id, (extra,) = prefill(pair, options, [41], logit_bias={77: 100.0}, repetition_penalty=1.5, frequency_penalty=1.0)
    assert token_id == 77
    assert extra.logprobs is not None
    check(extra.logprobs, pair.expected[-1:], options)


def test_nobody_asks_and_nothing_comes(pair: Pair) -> None:
    assert prefill(pair, None, [20, 21])[1] == []


@pytest.mark.parametrize("chunks", [[41], [20, 21]], ids=str)
def test_hidden_states_are_those_of_transformers(pair: Pair, chunks: list[int]) -> None:
    options = LogprobOptions(prompt_start=30)
    _, extras = prefill(pair, options, chunks, hidden=True)
    states = [state for extra in extras for state in extra.hidden_states or ()]
    np.testing.assert_allclose(states, pair.hidden, atol=TOLERANCE)
    check(prompt_part(extras), pair.expected[29:-1], options)


def test_neighbours_change_nothing(pair: Pair) -> None:
    options = LogprobOptions(num_top=3, prompt_start=5)
    _, alone = prefill(pair, options, [41])
    opens = tuple(
        SlotOpen(
            slot=slot,
            token_ids=PROMPT[slot:],
            num_prompt_tokens=len(PROMPT) - slot,
            pages=tuple(range(11 * slot, 11 * slot + 11)),
            params=SamplingParams(temperature=0.0),
            logprobs=options if slot != 2 else None,
        )
        for slot in range(3)
    )
    rows = tuple(StepRow(slot=slot, start=0, num_tokens=len(PROMPT) - slot, sample=True) for slot in (2, 0, 1))
    result = pair.runner.run(StepPlan(step_id=0, closes=(1,), opens=opens, rows=rows))
    assert isinstance(result, StepDone)
    assert [extra.row for extra in result.extras] == [1, 2]
    assert (result.extras[0].prompt_logprobs, result.extras[0].logprobs) == (alone[0].prompt_logprobs, alone[0].logprobs)


def test_numbers_that_are_not_finite_fail_the_request(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    to_logits = type(pair.runner.model).logits
    monkeypatch.setattr(type(pair.runner.model), "logits", lambda self, hidden: to_logits(self, hidden) * torch.nan)
    token_id, (extra,) = prefill(pair, LogprobOptions(prompt_start=0), [41])
    assert token_id == -1
    assert extra.failure is not None
    assert extra.failure.status == 500
