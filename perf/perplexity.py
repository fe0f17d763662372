"""Perplexity of a model on the GSM8K texts: `python -m perf.perplexity --data gsm8k.jsonl [--model-path M] [--dtype T]`.

With `--transformers FOLDER` the same texts go through transformers in bfloat16 as well, and the ratio is printed: what our
number formats cost. Every text is one prefill; the first token of a text is not predicted.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import torch
from tqdm import tqdm

from runtime.config import ModelConfig
from runtime.layers.forward import ForwardBatch
from runtime.loading.checkpoint import Checkpoint, open_checkpoint
from runtime.models.decoder import Decoder
from runtime.models.load import load_model

PAGE_SIZE = 16
Logits = Callable[[list[int]], torch.Tensor]


def main() -> None:
    options = _parser().parse_args()
    checkpoint = open_checkpoint(ModelConfig(model_path=options.model_path))
    texts = list(_token_ids(checkpoint, options.data, options.limit))
    model = load_model(checkpoint, dtype=options.dtype, activation_bits=options.activation_bits)
    ours = _perplexity(_our_logits(model), texts)
    print(f"callboard, --dtype {options.dtype} --activation-bits {options.activation_bits}: {ours:.4f}")
    if options.transformers:
        theirs = _perplexity(_their_logits(options.transformers), texts)
        print(f"transformers, bfloat16: {theirs:.4f}")
        print(f"ratio: {ours / theirs:.5f}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perf.perplexity", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="gsm8k.jsonl: a question and an answer per line")
    parser.add_argument("--model-path")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--activation-bits", choices=("8", "16", "mixed"), default="mixed")
    parser.add_argument("--limit", type=int, default=100, help="texts to read")
    parser.add_argument("--transformers", type=Path, help="the same model as a Hugging Face folder")
    return parser


def _token_ids(checkpoint: Checkpoint, data: Path, limit: int) -> Iterator[list[int]]:
    tokenizer = checkpoint.vocabulary().tokenizer
    for line in data.read_bytes().splitlines()[:limit]:
        row = orjson.loads(line)
        yield tokenizer.encode(f"Question: {row['question']}\nAnswer: {row['answer']}").ids


def _perplexity(logits: Logits, texts: list[list[int]]) -> float:
    total, num_predicted = 0.0, 0
    with torch.inference_mode():
        for token_ids in tqdm(texts, unit="text", leave=False, disable=None):
            chances = logits(token_ids)[:-1].float().log_softmax(dim=-1)  # [tokens - 1, vocab]
            following = torch.tensor(token_ids[1:])
            total -= float(chances.gather(1, following[:, None]).double().sum())
            num_predicted += len(following)
    return math.exp(total / num_predicted)


def _our_logits(model: Decoder) -> Logits:
    def logits(token_ids: list[int]) -> torch.Tensor:
        num_tokens = len(token_ids)
        num_pages = -(-num_tokens // PAGE_SIZE)
        batch = ForwardBatch(
            token_ids=torch.tensor(token_ids),
            positions=torch.arange(num_tokens, dtype=torch.int32),
            query_starts=torch.tensor([0, num_tokens], dtype=torch.int32),
            kv_lengths=torch.tensor([num_tokens], dtype=torch.int32),
            page_tables=torch.arange(num_pages, dtype=torch.int32)[None],
            write_slots=torch.arange(num_tokens, dtype=torch.int32),
            logit_rows=torch.arange(num_tokens),
        )
        return model.forward(batch, model.kv_shape().allocate(num_pages, PAGE_SIZE))

    return logits


def _their_logits(folder: Path) -> Logits:
    from transformers import AutoModelForCausalLM  # a measuring tool only, and seconds to import

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)

    def logits(token_ids: list[int]) -> torch.Tensor:
        found: torch.Tensor = model(torch.tensor([token_ids])).logits[0]
        return found

    return logits


if __name__ == "__main__":
    main()
