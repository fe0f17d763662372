"""SGLang's bench_serving on a running server: `python -m perf.clients.bench_serving --venv VENV --tokenizer FOLDER …`.

It reads conversations in ShareGPT's form, which are made of school arithmetic. Needs a virtual environment with
`sglang==0.4.3.post2` without its dependencies, and aiohttp, datasets, numpy, requests, tqdm and transformers. `--backend` is
one of its own: `sglang` asks `/generate`, `sglang-oai` and `vllm` ask `/v1/completions`. What follows `--` goes to it too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import orjson

from perf.clients.questions import questions_of


def main() -> None:
    options, rest = _parser().parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        conversations = Path(folder) / "conversations.json"
        write_conversations(conversations, options.gsm8k_path)
        more = [argument for argument in rest if argument != "--"]
        sys.exit(subprocess.run([*command(options, conversations), *more], check=False).returncode)


def write_conversations(path: Path, gsm8k_path: Path) -> None:
    """A question and its answer each."""
    rows = questions_of(gsm8k_path, "test")
    turns = [[{"from": "human", "value": row.question}, {"from": "gpt", "value": row.answer}] for row in rows]
    path.write_bytes(orjson.dumps([{"conversations": conversation} for conversation in turns]))


def command(options: argparse.Namespace, conversations: Path) -> list[str]:
    return [
        *(str(options.venv / "bin" / "python"), "-m", "sglang.bench_serving"),
        *("--backend", options.backend, "--base-url", options.base_url, "--num-prompts", str(options.num_prompts)),
        *("--model", options.model, "--tokenizer", str(options.tokenizer)),
        *("--dataset-name", "sharegpt", "--dataset-path", str(conversations)),
        *("--output-file", str(conversations.with_name("results.jsonl"))),  # else in the folder where it is run
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perf.clients.bench_serving", description=__doc__)
    parser.add_argument("--venv", type=Path, required=True, help="the virtual environment that has sglang")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder; bench_serving counts tokens with it")
    parser.add_argument("--gsm8k-path", type=Path, required=True)
    parser.add_argument("--base-url", default="http://127.0.0.1:30000")
    parser.add_argument("--backend", default="sglang")
    parser.add_argument("--model", default="default")
    parser.add_argument("--num-prompts", type=int, default=100)
    return parser


if __name__ == "__main__":
    main()
