"""Weights, memory and profiles of a real executor over a tiny model in files."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.config import CacheConfig, Config, ExecutorConfig, ModelConfig
from runtime.executor.build import build_executor
from runtime.executor.cpu import CpuExecutor
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
    StartProfile,
    StepDone,
    StepFailed,
    StepPlan,
    StopProfile,
    UpdateWeights,
)
from runtime.params import SamplingParams
from tests.executor.toy_model import row
from tests.models.conftest import save_random_model

PROMPT = tuple(range(40, 60))
EMBEDDING = "model.embed_tokens.weight"
TIMEOUT_S = 60.0


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        save_random_model(folder / "old", "LlamaConfig")
        new = save_random_model(folder / "new", "LlamaConfig")
        with torch.no_grad():
            for parameter in new.parameters():
                parameter.mul_(-0.7)
        new.save_pretrained(folder / "new", max_shard_size="100KB")
        save_random_model(folder / "other", "LlamaConfig", hidden_size=32)
        self.tokens = {name: self._alone(name) for name in ("old", "new")}
        self.executor = self.build("old")

    def build(self, name: str) -> CpuExecutor:
        config = Config(
            model=ModelConfig(model_path=str(self.folder / name), dtype="float32"),
            cache=CacheConfig(max_total_tokens=256),
            executor=ExecutorConfig(num_threads=1),
        )
        return build_executor(config, open_checkpoint(config.model))

    def _alone(self, name: str) -> tuple[int, ...]:
        executor = self.build(name)
        try:
            (result,) = ask(executor, [plan(0)])
        finally:
            executor.stop()
        assert isinstance(result, StepDone)
        return result.token_ids

    def answer(self, *commands: EngineCommand) -> list[Done | Refused]:
        ran = ask(self.executor, [RunCommand(command_id=i, command=command) for i, command in enumerate(commands)])
        assert [message.command_id for message in ran if isinstance(message, CommandRan)] == list(range(len(commands)))
        return [message.answer for message in ran if isinstance(message, CommandRan)]

    def generate(self) -> tuple[int, ...]:
        (result,) = ask(self.executor, [plan(0)])
        assert isinstance(result, StepDone), result
        return result.token_ids


def plan(step_id: int) -> StepPlan:
    opening = SlotOpen(
        slot=0,
        token_ids=PROMPT,
        num_prompt_tokens=len(PROMPT),
        pages=(3, 1),
        params=SamplingParams(temperature=0.0),
    )
    return StepPlan(step_id=step_id, closes=(0,), opens=(opening,), rows=(row(0, 0, len(PROMPT)),))


def ask(executor: CpuExecutor, messages: list[StepPlan | RunCommand]) -> list[StepDone | StepFailed | CommandRan]:
    """What the executor posts, one message at a time."""

    async def run() -> list[StepDone | StepFailed | CommandRan]:
        posted: asyncio.Queue[StepDone | StepFailed | CommandRan] = asyncio.Queue()
        executor.start(posted.put_nowait)
        for message in messages:
            executor.submit(message) if isinstance(message, StepPlan) else executor.execute(message)
        return [await asyncio.wait_for(posted.get(), TIMEOUT_S) for _ in messages]

    return asyncio.run(run())


@pytest.fixture(scope="module")
def module_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("models"))
    yield bench
    bench.executor.stop()


@pytest.fixture
def bench(module_bench: Bench) -> Bench:
    """With the old weights."""
    module_bench.answer(UpdateWeights(model_path=str(module_bench.folder / "old")))
    return module_bench


def test_new_weights_serve_and_can_be_read(bench: Bench) -> None:
    assert bench.tokens["old"] != bench.tokens["new"]
    (before,) = bench.answer(ReadWeights(name=EMBEDDING, truncate_size=3))
    assert isinstance(before, Done)
    assert np.shape(before.value) == (3, 64)
    updated, after = bench.answer(
        UpdateWeights(model_path=str(bench.folder / "new")), ReadWeights(name=EMBEDDING, truncate_size=3)
    )
    assert updated == Done()
    assert isinstance(after, Done)
    np.testing.assert_allclose(after.value, np.array(before.value) * -0.7, rtol=1e-5)
    assert bench.generate() == bench.tokens["new"]


@pytest.mark.parametrize(
    ("name", "load_format", "reason"),
    [("nothing", None, "nothing"), ("other", None, "shapes"), ("new", "gguf", "gguf"), ("new", "pickle", "load_format")],
)
def test_weights_that_do_not_fit_change_nothing(bench: Bench, name: str, load_format: str | None, reason: str) -> None:
    (answer,) = bench.answer(UpdateWeights(model_path=str(bench.folder / name), load_format=load_format))
    assert isinstance(answer, Refused)
    assert answer.failure.status == 400
    assert reason in answer.failure.message
    assert bench.generate() == bench.tokens["old"]


def test_a_broken_file_changes_nothing(bench: Bench) -> None:
    broken = bench.folder / "broken"
    save_random_model(broken, "LlamaConfig")
    next(broken.glob("*.safetensors")).write_bytes(b"\x10" * 40)
    (answer,) = bench.answer(UpdateWeights(model_path=str(broken)))
    assert isinstance(answer, Refused)
    assert bench.generate() == bench.tokens["old"]


def test_an_unknown_parameter_is_refused(bench: Bench) -> None:
    (answer,) = bench.answer(ReadWeights(name="model.nothing.weight"))
    assert isinstance(answer, Refused)
    assert (answer.failure.status, answer.failure.param) == (400, "name")


def test_memory_goes_and_comes_back(bench: Bench) -> None:
    bench.answer(UpdateWeights(model_path=str(bench.folder / "new")))
    assert bench.answer(ReleaseMemory()) == [Done()]
    assert (bench.executor._runner.model, bench.executor._runner.kv) == (None, None)
    (failed,) = ask(bench.executor, [plan(0)])
    assert isinstance(failed, StepFailed)
    assert bench.answer(ResumeMemory(tags=("kv_cache",)), ResumeMemory()) == [Done(), Done()]
    assert bench.generate() == bench.tokens["new"], "the weights that were served last"


def test_a_reset_takes_the_memory_back(bench: Bench) -> None:
    bench.answer(ReleaseMemory())
    bench.executor.reset()
    assert bench.generate() == bench.tokens["old"]


def events(path: str) -> list[dict[str, object]]:
    with gzip.open(path) as file:
        found: list[dict[str, object]] = json.load(file)["traceEvents"]
    return found


def test_a_profile_is_a_trace_of_the_steps(bench: Bench, tmp_path: Path) -> None:
    folder = str(tmp_path / "traces")
    assert bench.answer(StartProfile(output_dir=folder)) == [Done()]
    (again,) = bench.answer(StartProfile(output_dir=folder))
    assert isinstance(again, Refused)
    assert again.failure.status == 409
    bench.generate()
    (stopped,) = bench.answer(StopProfile())
    assert isinstance(stopped, Done)
    assert any(str(event.get("name")).startswith("aten::") for event in events(stopped.value))


def test_a_profile_ends_with_the_executor(bench: Bench, tmp_path: Path) -> None:
    bench.answer(StartProfile(output_dir=str(tmp_path)))
    bench.generate()
    bench.executor.stop()
    (stopped,) = bench.answer(StopProfile())
    assert isinstance(stopped, Refused)
    assert not list(tmp_path.iterdir())


def test_a_profile_of_so_many_steps_stops_by_itself(bench: Bench, tmp_path: Path) -> None:
    bench.answer(StartProfile(output_dir=str(tmp_path), num_steps=1))
    bench.generate()
    (path,) = tmp_path.iterdir()
    stopped, again = bench.answer(StopProfile(), StopProfile())
    assert stopped == Done(value=str(path))
    assert isinstance(again, Refused)


def test_a_folder_that_can_not_be_written_is_refused(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    started, stopped = bench.answer(StartProfile(output_dir=str(tmp_path / "file")), StopProfile())
    assert isinstance(started, Refused)
    assert isinstance(stopped, Refused)
