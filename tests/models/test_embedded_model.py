"""The embedded model writes what transformers writes from the same file."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
import transformers
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS

from runtime.config import ModelConfig
from runtime.loading.checkpoint import Checkpoint, open_checkpoint
from runtime.models.load import load_model
from tests.models.conftest import PagedRunner, PagedSequence

PROMPTS = ("The capital of France is", "Once upon a time, in a small village by the sea,")
NUM_NEW_TOKENS = 32
SMOLLM2_135M = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "tie_word_embeddings": True,
    "bos_token_id": None,
    "eos_token_id": None,  # transformers would stop there
}


@pytest.fixture(scope="module")
def checkpoint(embedded_gguf: Path) -> Checkpoint:
    return open_checkpoint(ModelConfig(model_path=str(embedded_gguf)))


def load_theirs(path: Path) -> transformers.LlamaForCausalLM:
    """The model in transformers, fp32: values and names from gguf, the order of rows from transformers' own reader.

    `from_pretrained(gguf_file=…)` does the same in four times the time, and wants accelerate.
    """
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMOLLM2_135M)).eval()
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    processor = TENSOR_PROCESSORS["llama"](config=SMOLLM2_135M)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            tensor = stored[names.get_name(name, try_suffixes=(".weight",))]
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            parameter.copy_(torch.from_numpy(processor.process(values, name=tensor.name).weights.copy()))
    return model


def expected_token_ids(path: Path, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy continuations by transformers."""
    model = load_theirs(path)
    limits = {"max_new_tokens": NUM_NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
    return [model.generate(torch.tensor([prompt]), **limits)[0, len(prompt) :].tolist() for prompt in prompts]


def greedy(runner: PagedRunner, prompts: list[list[int]]) -> list[list[int]]:
    """All prompts in one batch, one token a step."""
    sequences = [PagedSequence(list(prompt)) for prompt in prompts]
    for _ in range(NUM_NEW_TOKENS):
        logits = runner.step(*((sequence, len(sequence.token_ids) - sequence.num_cached) for sequence in sequences))
        for sequence, rows in zip(sequences, logits, strict=True):
            sequence.token_ids.append(int(rows[-1].argmax()))
    return [sequence.token_ids[len(prompt) :] for sequence, prompt in zip(sequences, prompts, strict=True)]


def test_greedy_text(checkpoint: Checkpoint) -> None:
    tokenizer = checkpoint.vocabulary().tokenizer
    prompts = [tokenizer.encode(prompt).ids for prompt in PROMPTS]
    runner = PagedRunner(load_model(checkpoint, dtype="float32"), page_size=16)
    assert greedy(runner, prompts) == expected_token_ids(checkpoint.path, prompts)


def test_a_row_does_not_depend_on_its_batch(checkpoint: Checkpoint) -> None:
    """bfloat16 on this machine, bit for bit: alone, beside others, and in chunks."""
    model = load_model(checkpoint, dtype="bfloat16")
    token_ids = checkpoint.vocabulary().tokenizer.encode(PROMPTS[1] * 4).ids[:40]
    alone = PagedRunner(model, page_size=16)
    whole = alone.step((PagedSequence(token_ids), 40))[0]
    mixed = PagedRunner(model, page_size=16)
    mine, others = PagedSequence(token_ids), [PagedSequence(token_ids[n:] + token_ids[:n]) for n in range(1, 8)]
    steps = [mixed.step((mine, num_tokens), *((other, 5) for other in others))[0] for num_tokens in (1, 20, 1, 17)]
    steps.append(mixed.step((mine, 1))[0])
    assert torch.equal(torch.cat(steps), whole)
