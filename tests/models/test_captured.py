"""A captured decoder gives the decoder's own bits, for batches of any shape."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kernels import paged_attention
from kernels.graph import KernelGraph
from runtime.config import ModelConfig
from runtime.layers.forward import ForwardBatch
from runtime.loading.checkpoint import open_checkpoint
from runtime.models import captured
from runtime.models.captured import CapturedDecoder
from runtime.models.decoder import Decoder
from runtime.models.load import load_model
from tests.models.conftest import PagedRunner, PagedSequence

NUM_PAGES = 64


@pytest.fixture(scope="module")
def decoder(embedded_gguf: Path) -> Decoder:
    return load_model(open_checkpoint(ModelConfig(model_path=str(embedded_gguf))), num_positions=512)


@pytest.fixture(scope="module")
def replayed(decoder: Decoder) -> CapturedDecoder:
    return CapturedDecoder(decoder)


def token_ids(length: int, seed: int) -> list[int]:
    return torch.randint(0, 49152, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


STEPS = [
    [(40, 0)],
    [(1, 0), (7, 1), (3, 2)],
    [(1, 0), (1, 1), (1, 2)],
    [(30, 1), (1, 2)],
    [(1, 2)],
]
"""Per step: how many tokens of which sequence."""


@pytest.mark.parametrize("page_size", [16, 8])
def test_every_step_has_the_bits_of_the_decoder(decoder: Decoder, replayed: CapturedDecoder, page_size: int) -> None:
    runs = [PagedRunner(model, page_size, NUM_PAGES) for model in (decoder, replayed)]
    sequences = [[PagedSequence(token_ids(100, seed)) for seed in range(3)] for _ in runs]
    for step in STEPS:
        expected, found = (
            run.step(*((mine[index], count) for count, index in step)) for run, mine in zip(runs, sequences, strict=True)
        )
        assert torch.equal(torch.cat(found), torch.cat(expected))
    for layer in range(decoder.spec.num_layers):
        assert torch.equal(runs[0].kv.keys[layer], runs[1].kv.keys[layer])
        assert torch.equal(runs[0].kv.values[layer], runs[1].kv.values[layer])


def batch_of_two(wanted: list[int]) -> ForwardBatch:
    """Five tokens of one sequence and three of another, both from their start."""
    return ForwardBatch(
        token_ids=torch.tensor(token_ids(8, 5)),
        positions=torch.tensor([0, 1, 2, 3, 4, 0, 1, 2], dtype=torch.int32),
        query_starts=torch.tensor([0, 5, 8], dtype=torch.int32),
        kv_lengths=torch.tensor([5, 3], dtype=torch.int32),
        page_tables=torch.tensor([[1], [0]], dtype=torch.int32),
        write_slots=torch.tensor([16, 17, 18, 19, 20, 0, 1, 2], dtype=torch.int32),
        logit_rows=torch.tensor(wanted, dtype=torch.int64),
    )


@pytest.mark.parametrize("wanted", [[7], [4, 7], [7, 2, 2, 0], [7, 6, 5, 4, 3, 2, 1, 0], []])
@pytest.mark.parametrize("is_replayed", [False, True])
def test_a_token_has_the_same_output_whatever_else_is_wanted(
    decoder: Decoder, replayed: CapturedDecoder, wanted: list[int], is_replayed: bool
) -> None:
    model = replayed if is_replayed else decoder
    kv = decoder.kv_shape().allocate(2, 16)
    all_of_them = decoder.forward(batch_of_two(list(range(8))), kv)
    keys = [layer.clone() for layer in kv.keys]
    logits = model.forward(batch_of_two(wanted), kv)
    assert logits.shape == (len(wanted), 49152)
    assert torch.equal(logits, all_of_them[wanted])
    assert all(torch.equal(before, after) for before, after in zip(keys, kv.keys, strict=True))


def test_a_batch_larger_than_the_graph_is_computed_too(
    decoder: Decoder, replayed: CapturedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv = decoder.kv_shape().allocate(2, 16)
    expected = replayed.forward(batch_of_two([4, 7]), kv)
    monkeypatch.setattr(captured, "MAX_TOKENS", 7)
    monkeypatch.setattr(KernelGraph, "replay", lambda *_: pytest.fail("the buffers are too small"))
    assert torch.equal(replayed.forward(batch_of_two([4, 7]), kv), expected)
    assert replayed.is_captured


def test_a_model_with_other_kernels_is_not_captured(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here attention is left to torch, as for heads that are too wide for the kernel."""
    kv = decoder.kv_shape().allocate(2, 16)
    monkeypatch.setattr(paged_attention, "MAX_HEAD_DIM", 32)
    expected = decoder.forward(batch_of_two([4, 7]), kv)
    model = CapturedDecoder(decoder)
    assert torch.equal(model.forward(batch_of_two([4, 7]), kv), expected)
    assert not model.is_captured


def test_the_largest_logits_are_found_without_logits(decoder: Decoder, replayed: CapturedDecoder) -> None:
    hidden = decoder.hidden_states(batch_of_two([7, 2, 0]), decoder.kv_shape().allocate(2, 16))
    assert replayed.argmax(hidden).tolist() == decoder.logits(hidden).argmax(-1).tolist()
    assert replayed.argmax(hidden[:0]).tolist() == []
