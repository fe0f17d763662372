"""The whole engine over the CUDA executor, on a device that is the CPU: the same answers as over the CPU's executor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from runtime.config import Config
from runtime.engine import Engine
from runtime.errors import Unavailable
from runtime.executor.build_cuda import build_on
from runtime.executor.cuda import CudaExecutor
from runtime.executor.extras import Extensions
from runtime.layers.placement import ON_HOST
from runtime.loading.checkpoint import Checkpoint
from runtime.sampling.matcher import MatcherSource
from runtime.scheduling.request import Request
from runtime.scheduling.state import Scheduling
from tests.executor.fake_port import DeviceBroke, FakePort

SCHEMA = orjson.dumps(
    {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "people": {"type": "integer"}},
        "required": ["city"],
    }
).decode()
FLAGS = {
    "max_total_tokens": 256,  # so few that sequences have to give way to others
    "schedule_conservativeness": 0.05,
    "max_running_requests": 6,
    "chunked_prefill_size": 64,
    "num_threads": 1,
    "random_seed": 0,
}
REQUESTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("The capital of France is", {"max_new_tokens": 40}, {}),
    ("One, two, three,", {"max_new_tokens": 40, "ignore_eos": True}, {}),
    ("Describe a city as JSON: ", {"max_new_tokens": 32, "json_schema": SCHEMA}, {}),
    ("A date: ", {"max_new_tokens": 30, "regex": "[0-9]{4}-[0-9]{2}-[0-9]{2}"}, {}),
    (
        "The sea, the sea,",
        {"max_new_tokens": 32, "frequency_penalty": 0.7, "repetition_penalty": 1.2, "min_new_tokens": 20},
        {},
    ),
    ("Once upon a time", {"max_new_tokens": 20}, {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2}),
    ("The sea, the sea, the ships", {"max_new_tokens": 32, "stop": ["\n"]}, {}),
    ("Words: " + "green red blue " * 25, {"max_new_tokens": 40, "logit_bias": {"260": 3.0}}, {}),
]


@pytest.fixture(scope="module")
def port() -> FakePort:
    return FakePort()


def answers(engine: Engine) -> list[dict[str, Any]]:
    """Of all requests at once."""
    prompts, params, fields = zip(*REQUESTS, strict=True)
    together = {name: [each.get(name, missing) for each in fields] for name, missing in MISSING.items()}
    return engine.generate(list(prompts), [{"temperature": 0, **each} for each in params], **together)


MISSING = {"return_logprob": False, "logprob_start_len": -1, "top_logprobs_num": 0}


def on_device(port: FakePort) -> Any:
    def build(config: Config, checkpoint: Checkpoint, matchers: MatcherSource, ranks: None = None) -> CudaExecutor:
        return build_on(port, config, checkpoint, Extensions(matchers, {}), ON_HOST)

    return build


@pytest.fixture(scope="module")
def device_engine(port: FakePort, embedded_gguf: Path) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runtime.executor.build.build_executor", on_device(port))
        with Engine(**FLAGS) as engine:
            yield engine


def rounded(values: Any) -> Any:
    """Logarithms are computed in another order here and there."""
    if isinstance(values, list | tuple):
        return [rounded(value) for value in values]
    return round(values, 3) if isinstance(values, float) else values


def test_answers_are_those_of_the_cpu(device_engine: Engine, port: FakePort, monkeypatch: pytest.MonkeyPatch) -> None:
    retracted: list[Request] = []
    retract = Scheduling._retract
    monkeypatch.setattr(Scheduling, "_retract", lambda self, request: (retracted.append(request), retract(self, request)))
    found = answers(device_engine)
    assert retracted, "the cache is small enough"
    with Engine(**FLAGS) as engine:
        expected = answers(engine)
    assert [answer["text"] for answer in found] == [answer["text"] for answer in expected]
    for answer, other in zip(found, expected, strict=True):
        for name in ("finish_reason", "completion_tokens", "input_token_logprobs", "output_top_logprobs"):
            assert rounded(answer["meta_info"].get(name)) == rounded(other["meta_info"].get(name))
    assert any(graph.num_replays for graph in port.graphs)


def test_a_seeded_draw_is_the_same_alone_and_among_others(device_engine: Engine) -> None:
    params = {"max_new_tokens": 12, "temperature": 0.9, "top_p": 0.95, "sampling_seed": 7, "ignore_eos": True}
    alone = device_engine.generate("My favourite colour", params)["text"]
    others = device_engine.generate(["Hello", "My favourite colour", "Some"], params)
    assert others[1]["text"] == alone
    assert device_engine.generate("My favourite colour", {**params, "sampling_seed": 8})["text"] != alone


def test_a_lost_device_ends_every_request_and_the_engine(device_engine: Engine, port: FakePort) -> None:
    """The last test of this engine."""
    port.errors += [DeviceBroke("CUDA error: an illegal memory access was encountered")] * 4
    with pytest.raises(Exception, match="request was lost"):
        device_engine.generate(["Hello"] * 3, {"max_new_tokens": 30, "ignore_eos": True})
    with pytest.raises(Unavailable):
        device_engine.generate("Hello")
