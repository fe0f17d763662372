"""Tiny random models made with transformers, and a driver that runs ours over a shuffled paged cache."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from runtime.config import ModelConfig
from runtime.layers.forward import ForwardBatch
from runtime.loading.checkpoint import open_checkpoint
from runtime.models.captured import CapturedDecoder
from runtime.models.decoder import Decoder
from runtime.models.load import load_model

TINY = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def save_random_model(folder: Path, config_class: str, **settings: Any) -> transformers.PreTrainedModel:
    """A tiny transformers model in fp32 whose every parameter is random, saved as safetensors in `folder`."""
    config = getattr(transformers, config_class)(**(TINY | settings), attn_implementation="eager")
    model = getattr(transformers, config_class.replace("Config", "ForCausalLM"))(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 1.0 if name.endswith("norm.weight") else 0.0
            parameter.normal_(mean, 0.15, generator=generator)
    model.save_pretrained(folder, max_shard_size="100KB")
    return model


def load_ours(folder: Path, *, num_positions: int | None = None, **settings: Any) -> Decoder:
    """The same model through our loader, in fp32."""
    checkpoint = open_checkpoint(ModelConfig(model_path=str(folder), **settings))
    return load_model(checkpoint, dtype="float32", num_positions=num_positions)


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Tiny models: a second thread only waits."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@dataclass
class PagedSequence:
    """A sequence in the cache; its first pages may be another sequence's."""

    token_ids: list[int]
    pages: list[int] = field(default_factory=list)
    num_cached: int = 0


class PagedRunner:
    """Runs steps over any mix of sequences, with pages handed out in random order."""

    def __init__(self, model: Decoder | CapturedDecoder, page_size: int, num_pages: int = 64) -> None:
        self.model = model
        self.page_size = page_size
        self.kv = model.kv_shape().allocate(num_pages, page_size)
        self.free_pages = random.Random(page_size).sample(range(num_pages), num_pages)

    def step(self, *parts: tuple[PagedSequence, int]) -> list[torch.Tensor]:
        """Compute the next tokens of each (sequence, number of tokens); the logits of all of them, [tokens, vocab] each."""
        ids, positions, slots, starts, lengths = [], [], [], [0], []
        for sequence, num_tokens in parts:
            first, last = sequence.num_cached, sequence.num_cached + num_tokens
            while len(sequence.pages) * self.page_size < last:
                sequence.pages.append(self.free_pages.pop())
            ids += sequence.token_ids[first:last]
            positions += range(first, last)
            slots += [self.slot(sequence, position) for position in range(first, last)]
            starts.append(len(ids))
            lengths.append(last)
            sequence.num_cached = last
        logits = self.model.forward(self.batch(parts, ids, positions, slots, starts, lengths), self.kv)
        return list(logits.split([num_tokens for _, num_tokens in parts]))

    def slot(self, sequence: PagedSequence, position: int) -> int:
        return sequence.pages[position // self.page_size] * self.page_size + position % self.page_size

    def batch(
        self,
        parts: Sequence[tuple[PagedSequence, int]],
        ids: list[int],
        positions: list[int],
        slots: list[int],
        starts: list[int],
        lengths: list[int],
    ) -> ForwardBatch:
        width = max(len(sequence.pages) for sequence, _ in parts)
        tables = [sequence.pages + [0] * (width - len(sequence.pages)) for sequence, _ in parts]
        return ForwardBatch(
            token_ids=torch.tensor(ids, dtype=torch.int64),
            positions=torch.tensor(positions, dtype=torch.int32),
            query_starts=torch.tensor(starts, dtype=torch.int32),
            kv_lengths=torch.tensor(lengths, dtype=torch.int32),
            page_tables=torch.tensor(tables, dtype=torch.int32),
            write_slots=torch.tensor(slots, dtype=torch.int32),
            logit_rows=torch.arange(len(ids)),
        )
