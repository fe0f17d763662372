"""Log probabilities of the embedded model in float32 are those that transformers computes from the same file."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from runtime.clock import SystemClock
from runtime.config import ModelConfig
from runtime.executor.memory import allocate_kv
from runtime.executor.port import ExecutorLimits
from runtime.executor.step_runner import StepRunner
from runtime.loading.checkpoint import open_checkpoint
from runtime.messages import SlotOpen, StepDone, StepPlan, StepRow, TokenLogprobs, joined_logprobs
from runtime.models.load import load_model
from runtime.params import LogprobOptions, SamplingParams
from tests.models.test_embedded_model import load_theirs

TEXT = "The capital of France is Paris. The capital of Italy is Rome, and 7 times 8 is 56. def f(x):\n    return"
TOLERANCE = 1e-3
NUM_OUTPUT = 4


def ours(path: Path, prompt: tuple[int, ...], options: LogprobOptions) -> tuple[list[int], TokenLogprobs]:
    """The output, and the log probabilities of prompt and output together."""
    model = load_model(open_checkpoint(ModelConfig(model_path=str(path))), dtype="float32", show_progress=False)
    limits = ExecutorLimits(num_pages=16, page_size=16, num_slots=1, context_length=256, vocab_size=model.spec.vocab_size)
    runner = StepRunner(model, allocate_kv(model.kv_shape(), 16, 16), limits, SystemClock())
    opening = SlotOpen(
        slot=0,
        token_ids=prompt,
        num_prompt_tokens=len(prompt),
        pages=tuple(range(16)),
        params=SamplingParams(temperature=0.0),
        logprobs=options,
    )
    cuts = [0, 5, len(prompt), *range(len(prompt) + 1, len(prompt) + NUM_OUTPUT)]
    parts, output = [], []
    for step_id, (start, end) in enumerate(pairwise(cuts)):
        rows = (StepRow(slot=0, start=start, num_tokens=end - start, sample=end >= len(prompt)),)
        done = runner.run(StepPlan(step_id=step_id, opens=() if step_id else (opening,), rows=rows))
        assert isinstance(done, StepDone)
        output += done.token_ids
        for extra in done.extras:
            parts += [part for part in (extra.prompt_logprobs, extra.logprobs) if part is not None]
    return output, joined_logprobs(parts)


def test_prompt_and_output_with_alternatives(embedded_gguf: Path) -> None:
    checkpoint = open_checkpoint(ModelConfig(model_path=str(embedded_gguf)))
    prompt = tuple(checkpoint.vocabulary().tokenizer.encode(TEXT).ids)
    options = LogprobOptions(num_top=5, token_ids=(0, 42, 49151), prompt_start=0)
    output, found = ours(embedded_gguf, prompt, options)
    ids = [*prompt, *output]
    assert found.token_ids == tuple(ids)
    with torch.no_grad():
        expected = load_theirs(embedded_gguf)(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()[:-1]
    assert found.values[0] is None
    np.testing.assert_allclose(found.values[1:], expected[range(len(ids) - 1), ids[1:]], atol=TOLERANCE)
    for row, top, chosen in zip(expected, found.top[1:], found.chosen[1:], strict=True):
        assert top is not None
        assert chosen is not None
        np.testing.assert_allclose([value for _, value in top], np.sort(row)[::-1][:5], atol=TOLERANCE)
        np.testing.assert_allclose([value for _, value in top], row[[token_id for token_id, _ in top]], atol=TOLERANCE)
        np.testing.assert_allclose([value for _, value in chosen], row[list(options.token_ids)], atol=TOLERANCE)
