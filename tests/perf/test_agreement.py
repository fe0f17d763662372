"""The comparison of devices: the CPU agrees with itself, and one other token is found."""

from __future__ import annotations

import pytest

from perf import agreement, shapes
from perf.agreement import PROMPT_LENGTHS, Generation
from runtime.config import Config
from runtime.executor.build_cuda import build_on
from runtime.executor.extras import NO_EXTENSIONS
from runtime.executor.port import Executor
from runtime.layers.placement import ON_HOST
from runtime.loading.checkpoint import Checkpoint
from tests.executor.fake_port import FakePort


def test_the_cpu_agrees_with_itself(capsys: pytest.CaptureFixture[str]) -> None:
    agreement.main(["--device", "cpu", "--shape", "tiny"])
    assert capsys.readouterr().out == "tiny: the same token ids as on the CPU, 232 tokens in\n"


@pytest.mark.parametrize("shape", ["tiny", "tiny-moe"])
def test_the_executor_of_a_gpu_agrees_on_a_device_that_is_the_cpu(
    shape: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build_executor, built = agreement.build_executor, []

    def build(config: Config, checkpoint: Checkpoint) -> Executor:
        if config.executor.device == "cpu":
            return build_executor(config, checkpoint)
        built.append(build_on(FakePort(), config, checkpoint, NO_EXTENSIONS, ON_HOST))
        return built[-1]

    monkeypatch.setattr(agreement, "build_executor", build)
    agreement.main(["--device", "cuda", "--shape", shape])
    assert capsys.readouterr().out == f"{shape}: the same token ids as on the CPU, 232 tokens in\n"
    assert len(built) == 1


@pytest.mark.parametrize("side", ["together", "alone"])
def test_another_token_is_found(side: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def generate(shape: str, flags: list[str]) -> Generation:
        ids = {name: [[row, 5, 6] for row in range(len(PROMPT_LENGTHS))] for name in ("together", "alone")}
        if flags[-1] == "cuda":
            ids[side][1] = [1, 5, 7]
        return Generation(**ids)

    monkeypatch.setattr(agreement, "generate", generate)
    with pytest.raises(SystemExit):
        agreement.main(["--shape", "tiny"])
    assert f"for the prompt of 17 tokens, {side}, from token 2 on" in capsys.readouterr().out


def test_a_shape_that_is_not_served_is_no_disagreement(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = shapes.read
    monkeypatch.setattr(shapes, "read", lambda name: read(name) | {"architectures": ["NoSuchForCausalLM"]})
    agreement.main(["--device", "cpu", "--shape", "tiny"])
    assert capsys.readouterr().out.startswith("tiny: skipped: the architecture NoSuchForCausalLM is not supported")
