"""The executor on a real GPU beside the CPU's; skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from runtime.config import Config
from runtime.executor.build import build_executor
from runtime.executor.cuda import CudaExecutor
from runtime.executor.cuda_port import CudaPort
from runtime.loading.checkpoint import open_checkpoint
from runtime.messages import Done, UpdateWeights
from tests.executor.test_build_cuda import Bench, answers, config_of, generation, tokens
from tests.executor.test_build_cuda import ask as ask_executor
from tests.models.conftest import save_random_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_random_model(path, "Qwen3Config", hidden_size=256, num_attention_heads=4, num_key_value_heads=2, head_dim=64)
    return path


def on_gpu(folder: Path, **flags: object) -> Config:
    config = config_of(folder)
    return msgspec.structs.replace(config, executor=msgspec.structs.replace(config.executor, device="cuda", **flags))


def generated(config: Config) -> list[tuple[int, ...]]:
    executor = build_executor(config, open_checkpoint(config.model))
    try:
        executor.warm_up()
        return tokens(ask_executor(executor, generation()))
    finally:
        executor.stop()


@pytest.mark.parametrize(
    "flags",
    [{}, {"disable_cuda_graph": True}, {"enable_deterministic_inference": True}, {"attention_backend": "torch_native"}],
    ids=["graphs", "eager", "deterministic", "torch_native"],
)
def test_tokens_are_those_of_the_cpu(folder: Path, flags: dict[str, object]) -> None:
    assert generated(on_gpu(folder, **flags)) == generated(config_of(folder))


def test_new_weights_are_recorded_again(folder: Path) -> None:
    config = on_gpu(folder)
    executor = build_executor(config, open_checkpoint(config.model))
    assert isinstance(executor, CudaExecutor)
    try:
        executor.warm_up()
        first = tokens(ask_executor(executor, generation()))
        bench = Bench(folder, None, executor)  # type: ignore[arg-type]
        assert answers(bench, UpdateWeights(model_path=str(folder))) == [Done()]
        executor.reset()
        assert tokens(ask_executor(executor, generation())) == first
    finally:
        executor.stop()


def test_copies_marks_and_graphs_of_the_port() -> None:
    port = CudaPort(torch.device("cuda", 0))
    with port.attached(), torch.inference_mode():
        words = port.host_words(4)
        words.copy_(torch.arange(4))
        begun, sent = port.mark(), port.send(words)
        graph = port.capture(lambda: sent * 2)
        sent += 1
        graph.replay()
        fetched, ended = port.fetch(graph.output), port.mark()
        ended.wait()
        assert fetched.tolist() == [2, 4, 6, 8]
        assert ended.us_since(begun) >= 0
        assert not port.is_lost(ValueError("a plan"))
        assert not port.is_lost(RuntimeError("a shape"))
        assert 0 < port.memory().free_bytes <= port.memory().total_bytes
        assert port.peak_bytes(lambda: torch.empty(2**20, device=port.device)) >= 2**20
