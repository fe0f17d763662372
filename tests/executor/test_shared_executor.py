"""Two ranks behind one executor: rank 0 leads by orders over a socket, rank 1 follows, and the tokens are those of one rank."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from runtime.config import CacheConfig, Config, ExecutorConfig, ModelConfig
from runtime.executor.build import Ranks, build_executor, build_order_worker
from runtime.executor.cpu import CpuExecutor
from runtime.executor.orders import Order
from runtime.layers.gloo_group import GlooGroup
from runtime.loading.checkpoint import open_checkpoint
from runtime.messages import (
    CommandRan,
    Done,
    EngineCommand,
    ReadWeights,
    Refused,
    ReleaseMemory,
    ResumeMemory,
    RunCommand,
    SlotOpen,
    StepDone,
    StepFailed,
    StepPlan,
    TokenLogprobs,
    UpdateWeights,
)
from runtime.params import LogprobOptions, SamplingParams
from tests.executor.toy_model import row
from tests.models.conftest import save_random_model
from tests.rank_pool import RankPool, free_port

TIMEOUT_S = 120.0
PROMPT = tuple(range(40, 60))
NUM_TOKENS = 6
GREEDY = SamplingParams(temperature=0.0)
WARM = SamplingParams(temperature=0.9, top_p=0.9, seed=5)
PAGE_SIZE = 16
COMMANDS: tuple[EngineCommand, ...] = (
    UpdateWeights(model_path="elsewhere"),
    ReleaseMemory(),
    ResumeMemory(),
    ReadWeights(name="model.norm.weight", truncate_size=2),
)

Posted = StepDone | StepFailed | CommandRan


def config_of(path: str) -> Config:
    return Config(
        model=ModelConfig(model_path=path, dtype="float32"),
        cache=CacheConfig(max_total_tokens=256, page_size=PAGE_SIZE),
        executor=ExecutorConfig(num_threads=1, device="cpu"),
    )


def plans() -> list[StepPlan]:
    """Two sequences, one sampled, in chunks and beside each other; what the first wants of log probabilities too."""
    greedy = opened(0, (3, 1), GREEDY, logprobs=LogprobOptions(num_top=2, prompt_start=0))
    warm = opened(1, (4, 7), WARM, returns_hidden_states=True)
    steps = [
        StepPlan(step_id=0, opens=(greedy,), rows=(row(0, 0, 7, sample=False),)),
        StepPlan(step_id=1, opens=(warm,), rows=(row(1, 0, len(PROMPT)), row(0, 7, len(PROMPT) - 7))),
    ]
    for number in range(NUM_TOKENS):
        position = len(PROMPT) + number
        steps.append(StepPlan(step_id=2 + number, rows=(row(0, position, 1), row(1, position, 1))))
    return steps


def opened(slot: int, pages: tuple[int, ...], params: SamplingParams, **wishes: Any) -> SlotOpen:
    return SlotOpen(slot=slot, token_ids=PROMPT, num_prompt_tokens=len(PROMPT), pages=pages, params=params, **wishes)


def run(executor: CpuExecutor, messages: list[StepPlan | RunCommand]) -> list[Posted]:
    async def play() -> list[Posted]:
        posted: asyncio.Queue[Posted] = asyncio.Queue()
        executor.start(posted.put_nowait)
        for message in messages:
            executor.submit(message) if isinstance(message, StepPlan) else executor.execute(message)
        return [await asyncio.wait_for(posted.get(), TIMEOUT_S) for _ in messages]

    executor.warm_up()
    try:
        return asyncio.run(play())
    finally:
        executor.stop()


def answers(executor: Any) -> list[Posted]:
    assert isinstance(executor, CpuExecutor)
    return run(executor, [*plans(), *(RunCommand(command_id=i, command=command) for i, command in enumerate(COMMANDS))])


# -- in the rank processes ---------------------------------------------------------------------------------------------


def be_rank(group: GlooGroup, path: str, port: int) -> list[Posted] | int:
    """What rank 0's executor posts; elsewhere the number of orders."""
    return lead(group, path, port) if group.rank == 0 else follow(group, path, port)


def lead(group: GlooGroup, path: str, port: int) -> list[Posted]:
    config = config_of(path)
    connections: list[socket.socket] = []

    def send(order: Order) -> None:
        data = msgspec.msgpack.encode(order)
        for connection in connections:
            connection.sendall(len(data).to_bytes(4, "little") + data)

    with socket.create_server(("127.0.0.1", port)) as listener:
        executor = build_executor(config, open_checkpoint(config.model), ranks=Ranks(group, send))
        connections += [listener.accept()[0] for _ in range(group.size - 1)]
    posted = answers(executor)
    for connection in connections:
        connection.close()
    return posted


def follow(group: GlooGroup, path: str, port: int) -> int:
    config = config_of(path)
    worker = build_order_worker(config, open_checkpoint(config.model), group)

    async def play() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        worker.start(failures.append)
        while size := await reader.read(4):
            worker.submit(msgspec.msgpack.decode(await reader.readexactly(int.from_bytes(size, "little")), type=Order))
        worker.stop()
        writer.close()

    failures: list[Exception] = []
    asyncio.run(play())
    assert not failures, failures
    return worker.num_finished


# -- the test ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_two_ranks_answer_as_one(rank_pool: RankPool, tmp_path: Path, tied: bool) -> None:
    save_random_model(tmp_path, "LlamaConfig", tie_word_embeddings=tied)
    config = config_of(str(tmp_path))
    expected = answers(build_executor(config, open_checkpoint(config.model)))
    actual, num_orders = rank_pool.run(2, be_rank, str(tmp_path), free_port())
    assert isinstance(actual, list)
    num_steps = len(plans())
    for ours, theirs in zip(actual[:num_steps], expected[:num_steps], strict=True):
        assert isinstance(ours, StepDone)
        assert isinstance(theirs, StepDone)
        assert ours.token_ids == theirs.token_ids
        assert_same_extras(ours, theirs)
    assert isinstance(num_orders, int)
    assert num_orders >= 2 * num_steps
    update, release, resume, read = [message.answer for message in actual[num_steps:] if isinstance(message, CommandRan)]
    for refused in (update, release):
        assert isinstance(refused, Refused)
        assert refused.failure.status == 409
        assert "2 ranks share the model (--tp)" in refused.failure.message
    assert resume == Done(), "nothing was given back"
    assert isinstance(read, Done)
    assert len(read.value) == 2


def assert_same_extras(ours: StepDone, theirs: StepDone) -> None:
    assert len(ours.extras) == len(theirs.extras)
    for our, their in zip(ours.extras, theirs.extras, strict=True):
        for field in ("logprobs", "prompt_logprobs"):
            actual, expected = getattr(our, field), getattr(their, field)
            assert (actual is None) == (expected is None)
            if actual is not None:
                np.testing.assert_allclose(numbers(actual), numbers(expected), atol=1e-4)
        if their.hidden_states is not None:
            np.testing.assert_allclose(our.hidden_states, their.hidden_states, atol=1e-4)


def numbers(logprobs: TokenLogprobs) -> list[float]:
    """All of them; ids too, which are far apart."""
    top = [number for pairs in logprobs.top for pair in pairs or () for number in pair]
    return [*logprobs.token_ids, *(value or 0.0 for value in logprobs.values), *top]
