"""Launching a step never waits for the device, and what is recorded in a graph can be recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch

from kernels import native
from kernels.sampling import reference as sampling
from runtime.executor.extras import Extensions
from runtime.executor.port import ExecutorLimits
from runtime.messages import SlotOpen, StepDone, StepPlan, StepRow
from runtime.models.decoder import Decoder
from runtime.params import LogprobOptions, SamplingParams
from tests.executor.device_bench import DeviceBench
from tests.executor.sync_guard import SyncGuard, Waits
from tests.fakes.matcher import ScriptedMatchers
from tests.models.conftest import load_ours, save_random_model

LIMITS = ExecutorLimits(num_pages=64, page_size=4, num_slots=4, context_length=64, vocab_size=256)
PENALIZED = SamplingParams(temperature=0.0, frequency_penalty=0.5, logit_bias={3: 1.0})
DRAWN = SamplingParams(temperature=0.8, top_p=0.9, seed=3)
WISHES = LogprobOptions(num_top=2, token_ids=(4, 5), prompt_start=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    if native.library() is None:
        pytest.skip("PyTorch's own attention waits")
    folder = tmp_path_factory.mktemp("qwen")
    save_random_model(folder, "Qwen3Config")
    return load_ours(folder, num_positions=64)


class Watched(DeviceBench):
    """Launches under the guard."""

    def __init__(self, model: Decoder, monkeypatch: pytest.MonkeyPatch, buckets: tuple[int, ...] = ()) -> None:
        kv = model.kv_shape().allocate(LIMITS.num_pages + 1, LIMITS.page_size)
        extensions = Extensions(ScriptedMatchers(LIMITS.vocab_size), {})
        super().__init__(model, kv, LIMITS, extensions, buckets=buckets)
        rules = self._runner._book.rules
        self.guard = guard = SyncGuard([rules.scalars, rules.masked_ids, rules.bias_ids, rules.bias_values])
        monkeypatch.setattr(sampling, "sample", guard.paused(sampling.sample))  # on a GPU it is Triton's
        monkeypatch.setattr(self, "complete", guard.paused(self.complete))
        monkeypatch.setattr(self.port, "send", guard.paused(self.port.send))
        monkeypatch.setattr(self.port, "fetch", guard.paused(self.port.fetch))
        host_words = self.port.host_words

        def allowed(num_words: int) -> torch.Tensor:
            words = host_words(num_words)
            guard.allow(words)
            return words

        monkeypatch.setattr(self.port, "host_words", allowed)

    def submit(self, plan: StepPlan) -> None:
        with self.guard.on():
            super().submit(plan)


def slot_open(slot: int, **fields: Any) -> SlotOpen:
    opened = SlotOpen(
        slot=slot,
        token_ids=tuple(range(10 + slot, 20 + slot)),
        num_prompt_tokens=10,
        pages=tuple(range(slot * 16, slot * 16 + 8)),
        params=SamplingParams(temperature=0.0),
    )
    return msgspec.structs.replace(opened, **fields)


OPENS = (
    slot_open(0),
    slot_open(1, params=PENALIZED),
    slot_open(2, params=DRAWN, logprobs=WISHES, returns_hidden_states=True),
    slot_open(3, grammar_key="grammar 3"),
)


def rows(start: int, num_tokens: int, slots: tuple[int, ...] = (0, 1, 2, 3), *, sample: bool = True) -> tuple[StepRow, ...]:
    return tuple(StepRow(slot=slot, start=start, num_tokens=num_tokens, sample=sample) for slot in slots)


PLANS = (
    StepPlan(step_id=0, opens=OPENS, rows=(*rows(0, 7, (0, 2), sample=False), *rows(0, 10, (1, 3)))),
    StepPlan(step_id=1, rows=(*rows(7, 3, (0, 2)), *rows(10, 1, (1, 3)))),
    StepPlan(step_id=2, rows=rows(10, 1, (0, 2))),
    StepPlan(step_id=3, rows=rows(11, 1, (0,))),
    StepPlan(step_id=4, closes=(1,), opens=(slot_open(1),), rows=rows(0, 10, (1,))),
)


@pytest.mark.parametrize("buckets", [(), (1, 2, 4)], ids=["eager", "graphs"])
def test_launching_a_step_does_not_wait(model: Decoder, buckets: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Watched(model, monkeypatch, buckets)
    for plan in PLANS:
        bench.submit(plan)
    bench.settle()
    assert all(isinstance(result, StepDone) for result in bench.results), bench.results
    assert bench.guard.num_checked > 300, "the guard sees the operations of the model"
    assert bool(buckets) == any(graph.num_replays for graph in bench.port.graphs)


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: int(x[0]),
        lambda x: x[x > 1],
        lambda x: x.nonzero(),
        lambda x: x.repeat_interleave(x),
        lambda x: torch.equal(x, x),
        lambda x: x.unique(),
        lambda x: 1 if (x > 0).any() else 0,
        lambda x: x.masked_select(x > 1),
        lambda x: x.index_put_((x > 1,), torch.tensor(1)),
    ],
)
def test_the_guard_sees_what_waits(work: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(Waits), torch.inference_mode(), SyncGuard([]).on():
        work(torch.arange(1, 4))


def test_the_guard_lets_the_rest_pass() -> None:
    x, host = torch.arange(1, 4), torch.arange(3)
    with torch.inference_mode(), SyncGuard([host]).on():
        x[torch.tensor([0, 1])] = host[:2] + 1
        x.repeat_interleave(x, output_size=6)
        assert len(x) == x.shape[0]
        host.tolist()
