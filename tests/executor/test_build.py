"""The embedded model behind the executor: loaded, sized, and generating."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from runtime.config import CacheConfig, Config, ExecutorConfig, ModelConfig
from runtime.errors import ConfigError
from runtime.executor.build import build_executor
from runtime.executor.cpu import CpuExecutor
from runtime.loading.checkpoint import Checkpoint, open_checkpoint
from runtime.messages import SlotOpen, StepDone, StepFailed, StepPlan, StepRow
from runtime.params import SamplingParams

PROMPT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
CONTEXT_LENGTH = 512
NUM_TOKENS = 12
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Loaded:
    executor: CpuExecutor
    prompt: tuple[int, ...]
    checkpoint: Checkpoint


@pytest.fixture(scope="module")
def loaded(embedded_gguf: object) -> Iterator[Loaded]:
    config = Config(
        model=ModelConfig(context_length=CONTEXT_LENGTH),
        cache=CacheConfig(max_total_tokens=2048),
        executor=ExecutorConfig(num_threads=2),
    )
    checkpoint = open_checkpoint(config.model)
    executor = build_executor(config, checkpoint)
    executor.warm_up()
    yield Loaded(executor, tuple(checkpoint.vocabulary().tokenizer.encode(PROMPT).ids), checkpoint)
    executor.stop()


def generate(loaded: Loaded, plans: list[StepPlan]) -> list[tuple[int, ...]]:
    """Submit `plans` two ahead, and return each step's tokens."""

    async def run() -> list[tuple[int, ...]]:
        results: asyncio.Queue[StepDone | StepFailed] = asyncio.Queue()
        loaded.executor.reset()
        loaded.executor.start(results.put_nowait)
        output = []
        for i, plan in enumerate([*plans, None]):
            if plan is not None:
                loaded.executor.submit(plan)
            if i > 0:
                async with asyncio.timeout(TIMEOUT_S):
                    result = await results.get()
                assert isinstance(result, StepDone), result
                output.append(result.token_ids)
        return output

    return asyncio.run(run())


def slot_open(slot: int, token_ids: tuple[int, ...], first_page: int, params: SamplingParams) -> SlotOpen:
    pages = tuple(range(first_page, first_page + 1 + (len(token_ids) + NUM_TOKENS) // 16))
    return SlotOpen(slot=slot, token_ids=token_ids, num_prompt_tokens=len(token_ids), pages=pages, params=params)


def row(slot: int, start: int, num_tokens: int, *, sample: bool = True) -> StepRow:
    return StepRow(slot=slot, start=start, num_tokens=num_tokens, sample=sample)


def alone(loaded: Loaded, params: SamplingParams, page: int = 0) -> list[int]:
    """The prompt in one piece, then token by token."""
    length = len(loaded.prompt)
    prefill = StepPlan(step_id=0, opens=(slot_open(0, loaded.prompt, page, params),), rows=(row(0, 0, length),))
    decodes = [StepPlan(step_id=i, rows=(row(0, length + i - 1, 1),)) for i in range(1, NUM_TOKENS)]
    return [token_id for (token_id,) in generate(loaded, [prefill, *decodes])]


def test_limits_come_from_the_model_and_the_flags(loaded: Loaded) -> None:
    limits = loaded.executor.limits
    assert (limits.num_pages, limits.page_size, limits.num_slots) == (128, 16, 128)
    assert (limits.context_length, limits.vocab_size) == (CONTEXT_LENGTH, 49152)


def test_greedy_generation_says_paris(loaded: Loaded) -> None:
    token_ids = alone(loaded, SamplingParams(temperature=0.0))
    assert "Paris" in loaded.checkpoint.vocabulary().tokenizer.decode(token_ids)


@pytest.mark.parametrize("params", [SamplingParams(temperature=0.0), SamplingParams(temperature=0.9, top_p=0.95, seed=11)])
def test_neighbours_and_chunks_change_nothing(loaded: Loaded, params: SamplingParams) -> None:
    expected = alone(loaded, params)
    length = len(loaded.prompt)
    other = slot_open(3, loaded.prompt[::-1], 40, SamplingParams(temperature=1.0, seed=5))
    plans = [
        StepPlan(step_id=0, opens=(slot_open(1, loaded.prompt, 60, params),), rows=(row(1, 0, 7, sample=False),)),
        StepPlan(step_id=1, opens=(other,), rows=(row(3, 0, length), row(1, 7, length - 7))),
    ]
    plans += [
        StepPlan(step_id=i + 1, rows=(row(3, length + i - 1, 1), row(1, length + i - 1, 1))) for i in range(1, NUM_TOKENS)
    ]
    assert [token_ids[1] for token_ids in generate(loaded, plans)[1:]] == expected


def test_a_context_that_does_not_fit_is_refused(loaded: Loaded) -> None:
    config = Config(model=ModelConfig(context_length=CONTEXT_LENGTH), cache=CacheConfig(max_total_tokens=256))
    with pytest.raises(ConfigError, match="--context-length"):
        build_executor(config, loaded.checkpoint)
