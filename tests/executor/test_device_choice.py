"""What `--device` means on a machine with and without GPUs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from runtime.config import Config, ExecutorConfig, ParallelConfig
from runtime.errors import ConfigError
from runtime.executor.device_choice import choose_device


def choose(monkeypatch: pytest.MonkeyPatch, num_gpus: int, tp_size: int = 1, **flags: Any) -> str:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    return str(choose_device(Config(executor=ExecutorConfig(**flags), parallel=ParallelConfig(tp_size=tp_size))))


@pytest.mark.parametrize(
    ("num_gpus", "flags", "expected"),
    [
        (0, {}, "cpu"),
        (1, {}, "cuda:0"),
        (2, {"device": "cpu"}, "cpu"),
        (2, {"device": "cuda", "base_gpu_id": 1}, "cuda:1"),
        (1, {"tp_size": 2}, "cpu"),
        (1, {"attention_backend": "torch_native"}, "cuda:0"),
        (1, {"enable_deterministic_inference": True}, "cuda:0"),
        (0, {"attention_backend": "torch_native", "enable_deterministic_inference": True}, "cpu"),
    ],
)
def test_the_device(monkeypatch: pytest.MonkeyPatch, num_gpus: int, flags: dict[str, Any], expected: str) -> None:
    assert choose(monkeypatch, num_gpus, **flags) == expected


@pytest.mark.parametrize(
    ("num_gpus", "flags", "reason"),
    [
        (0, {"device": "cuda"}, "use --device cpu"),
        (2, {"device": "cuda", "base_gpu_id": 2}, "--base-gpu-id 2"),
        (2, {"device": "cuda", "tp_size": 2}, "--tp 1"),
        (1, {"attention_backend": "flashinfer"}, "use triton"),
        (0, {"attention_backend": "triton"}, "needs a GPU"),
        (1, {"attention_backend": "torch_native", "enable_deterministic_inference": True}, "--attention-backend triton"),
    ],
)
def test_what_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, num_gpus: int, flags: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason) as raised:
        choose(monkeypatch, num_gpus, **flags)
    assert "\n" not in str(raised.value)
