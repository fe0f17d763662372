"""A whole executor for a GPU, built from files over a device that is the CPU, beside the CPU's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import torch

from runtime.config import CacheConfig, Config, ExecutorConfig, ModelConfig, SchedulerConfig
from runtime.errors import ConfigError
from runtime.executor.build import build_executor
from runtime.executor.build_cuda import build_on, graph_buckets
from runtime.executor.cpu import CpuExecutor
from runtime.executor.cuda import CudaExecutor
from runtime.executor.extras import NO_EXTENSIONS
from runtime.layers.placement import CPU, Placement
from runtime.loading.checkpoint import open_checkpoint
from runtime.messages import (
    CommandRan,
    Done,
    EngineCommand,
    Refused,
    ReleaseMemory,
    ResumeMemory,
    RunCommand,
    SlotOpen,
    StartProfile,
    StepDone,
    StepFailed,
    StepPlan,
    UpdateWeights,
)
from runtime.params import SamplingParams
from tests.executor.fake_port import FakePort
from tests.executor.toy_model import row
from tests.models.conftest import save_random_model

PROMPT = tuple(range(40, 60))
NUM_TOKENS = 9
PLAIN = Placement(CPU, is_plain=True)
TIMEOUT_S = 60.0
PARAMS = (
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.0, repetition_penalty=1.3, frequency_penalty=0.5),
    SamplingParams(temperature=0.0, logit_bias={7: 2.0}),
)
Message = StepPlan | RunCommand
Result = StepDone | StepFailed | CommandRan


@dataclass(frozen=True)
class Bench:
    folder: Path
    port: FakePort
    executor: CudaExecutor

    def config(self, name: str = "old") -> Config:
        return config_of(self.folder / name)


def config_of(path: Path) -> Config:
    return Config(
        model=ModelConfig(model_path=str(path), dtype="float32"),
        cache=CacheConfig(max_total_tokens=512),
        scheduler=SchedulerConfig(max_running_requests=4, chunked_prefill_size=64),
        executor=ExecutorConfig(num_threads=1, device="cpu"),
    )


@pytest.fixture(scope="module")
def module_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("models")
    save_random_model(folder / "old", "Qwen3Config")
    new = save_random_model(folder / "new", "Qwen3Config")
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.mul_(-0.7)
    new.save_pretrained(folder / "new", max_shard_size="100KB")
    config, port = config_of(folder / "old"), FakePort()
    checkpoint = open_checkpoint(config.model)
    executor = build_on(port, config, checkpoint, NO_EXTENSIONS, PLAIN)
    executor.warm_up()
    yield Bench(folder, port, executor)
    executor.stop()


@pytest.fixture
def bench(module_bench: Bench) -> Bench:
    """With the old weights and all slots free."""
    module_bench.executor.reset()
    answers(module_bench, UpdateWeights(model_path=str(module_bench.folder / "old")))
    return module_bench


def ask(executor: CudaExecutor | CpuExecutor, messages: list[Message]) -> list[Result]:
    """What the executor posts; two plans are ahead of their results."""

    async def run() -> list[Result]:
        posted: asyncio.Queue[Result] = asyncio.Queue()
        executor.start(posted.put_nowait)
        results: list[Result] = []
        for number, message in enumerate(messages):
            executor.submit(message) if isinstance(message, StepPlan) else executor.execute(message)
            if number > 0:
                results.append(await asyncio.wait_for(posted.get(), TIMEOUT_S))
        return [*results, await asyncio.wait_for(posted.get(), TIMEOUT_S)]

    return asyncio.run(run())


def answers(bench: Bench, *commands: EngineCommand) -> list[Done | Refused]:
    ran = ask(bench.executor, [RunCommand(command_id=i, command=command) for i, command in enumerate(commands)])
    return [message.answer for message in ran if isinstance(message, CommandRan)]


def generation() -> list[Message]:
    """Three sequences, in chunks and together."""
    opens = tuple(
        SlotOpen(
            slot=slot,
            token_ids=PROMPT[slot:],
            num_prompt_tokens=len(PROMPT) - slot,
            pages=tuple(range(slot * 3, slot * 3 + 3)),
            params=params,
        )
        for slot, params in enumerate(PARAMS)
    )
    prompts = [(row(0, 0, 12, sample=False), row(1, 0, 19)), (row(1, 19, 1), row(0, 12, 8), row(2, 0, 18))]
    decodes = [tuple(row(slot, end + i, 1) for slot, end in ((2, 18), (0, 20), (1, 20))) for i in range(NUM_TOKENS)]
    return [StepPlan(step_id=i, opens=() if i else opens, rows=rows) for i, rows in enumerate((*prompts, *decodes))]


def tokens(results: list[Result]) -> list[tuple[int, ...]]:
    assert all(isinstance(result, StepDone) for result in results), results
    return [result.token_ids for result in results if isinstance(result, StepDone)]


def generate(bench: Bench) -> list[tuple[int, ...]]:
    bench.executor.reset()
    return tokens(ask(bench.executor, generation()))


def expected(bench: Bench, name: str = "old") -> list[tuple[int, ...]]:
    executor = build_executor(bench.config(name), open_checkpoint(bench.config(name).model))
    try:
        return tokens(ask(executor, generation()))
    finally:
        executor.stop()


def test_tokens_are_those_of_the_cpu(bench: Bench) -> None:
    assert generate(bench) == expected(bench)
    assert [len(graph.output) for graph in bench.port.graphs[-3:]] == [4, 2, 1]
    assert [graph.num_replays for graph in bench.port.graphs[-3:]] == [NUM_TOKENS, 0, 0], "three rows take the graph of four"


def test_new_weights_take_the_place_of_the_old_ones_and_graphs_stay(bench: Bench) -> None:
    old, num_graphs, model = generate(bench), len(bench.port.graphs), bench.executor._runner.model
    assert answers(bench, UpdateWeights(model_path=str(bench.folder / "new"))) == [Done()]
    new = generate(bench)
    assert new == expected(bench, "new") != old
    assert bench.executor._runner.model is model
    assert len(bench.port.graphs) == num_graphs
    (refused,) = answers(bench, UpdateWeights(model_path=str(bench.folder / "nothing")))
    assert isinstance(refused, Refused)
    assert generate(bench) == new


def test_memory_goes_and_comes_back(bench: Bench) -> None:
    old = generate(bench)
    assert answers(bench, ReleaseMemory()) == [Done()]
    (failed, *_) = ask(bench.executor, generation()[:1])
    assert isinstance(failed, StepFailed)
    assert "given back" in failed.reason
    num_graphs = len(bench.port.graphs)
    assert answers(bench, ResumeMemory()) == [Done()]
    assert generate(bench) == old
    graphs = bench.port.graphs[num_graphs:]
    assert sum(graph.num_replays for graph in graphs) == NUM_TOKENS, "graphs are recorded again for new memory"
    assert answers(bench, ReleaseMemory(tags=("kv_cache",))) == [Done()]
    assert generate(bench) == old, "a reset takes it back"


def test_a_profile_ends_with_the_last_step_that_was_asked_for(bench: Bench, tmp_path: Path) -> None:
    assert answers(bench, StartProfile(output_dir=str(tmp_path), num_steps=3)) == [Done()]
    generate(bench)
    (trace,) = tmp_path.iterdir()
    assert trace.stat().st_size > 0


def with_executor(config: Config, **fields: object) -> Config:
    return msgspec.structs.replace(config, executor=msgspec.structs.replace(config.executor, **fields))


def test_buckets_follow_the_flags() -> None:
    config = config_of(Path("anywhere"))
    assert graph_buckets(config) == (1, 2, 4), "no step has more than --max-running-requests sequences"
    assert graph_buckets(with_executor(config, cuda_graph_max_bs=3)) == (1, 2, 3)
    assert graph_buckets(with_executor(config, disable_cuda_graph=True)) == ()
    assert graph_buckets(with_executor(config, attention_backend="torch_native")) == ()


def test_a_cache_that_does_not_fit_is_refused(bench: Bench) -> None:
    port = FakePort(free_bytes=2**20)
    with pytest.raises(ConfigError, match="no KV cache fits"):
        build_on(port, bench.config(), open_checkpoint(bench.config().model), NO_EXTENSIONS, PLAIN)


def test_a_step_that_does_not_fit_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(port: FakePort, work: object) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FakePort, "peak_bytes", fail)
    with pytest.raises(ConfigError, match="enough memory for a step"):
        build_on(FakePort(), bench.config(), open_checkpoint(bench.config().model), NO_EXTENSIONS, PLAIN)
