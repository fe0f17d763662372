"""EleutherAI's lm-eval on a running server: `python -m perf.clients.lm_eval --venv VENV --tokenizer FOLDER --gsm8k-path FILE`.

Its `local-completions` model answers school arithmetic behind some worked examples, greedily; the last number it says is its
answer. Needs a virtual environment with `lm-eval[api]`, torch and transformers, and the model's tokenizer in Hugging Face's
form.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson

from perf.clients.questions import questions_of

TASK = "arithmetic_behind_examples"
ENDS = ["Question:", "\n\n"]
NUMBER = r"(-?[0-9][0-9,]*)"


def main() -> None:
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_task(Path(folder), options.gsm8k_path, options.num_shots, options.num_questions, options.num_tokens)
        sys.exit(subprocess.run(command(options, Path(folder)), check=False).returncode)


def write_task(folder: Path, gsm8k_path: Path, num_shots: int, num_questions: int, num_tokens: int) -> None:
    """The task and its data; JSON is YAML too."""
    shots = questions_of(gsm8k_path, "shot")[:num_shots]
    prefix = "".join(f"Question: {shot.question}\nAnswer: {shot.answer}\n\n" for shot in shots)
    tests = questions_of(gsm8k_path, "test")[:num_questions]
    rows = [{"prompt": f"{prefix}Question: {row.question}\nAnswer:", "target": _target(row.answer)} for row in tests]
    data = folder / "questions.jsonl"
    data.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    (folder / f"{TASK}.yaml").write_bytes(orjson.dumps(_task(data, num_tokens)))


def command(options: argparse.Namespace, folder: Path) -> list[str]:
    model = {
        "model": options.model,
        "base_url": f"{options.base_url}/v1/completions",
        "num_concurrent": options.num_concurrent,
        "tokenizer": options.tokenizer,
        "tokenized_requests": False,
    }
    return [
        *(str(options.venv / "bin" / "python"), "-m", "lm_eval", "run"),
        *("--model", "local-completions", "--model_args", ",".join(f"{name}={value}" for name, value in model.items())),
        *("--include_path", str(folder), "--tasks", TASK),
    ]


def _target(answer: str) -> str:
    """The file's answers end with `#### 72`."""
    return answer.split("####")[1].strip()


def _task(data: Path, num_tokens: int) -> dict[str, Any]:
    return {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{target}}",
        "generation_kwargs": {"until": ENDS, "do_sample": False, "temperature": 0.0, "max_gen_toks": num_tokens},
        "filter_list": [
            {
                "name": "last number",
                "filter": [
                    {"function": "regex", "regex_pattern": NUMBER, "group_select": -1},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m perf.clients.lm_eval", description=__doc__)
    parser.add_argument("--venv", type=Path, required=True, help="the virtual environment that has lm-eval")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder; lm-eval counts tokens with it")
    parser.add_argument("--gsm8k-path", type=Path, required=True)
    parser.add_argument("--base-url", default="http://127.0.0.1:30000")
    parser.add_argument("--model", default="default")
    parser.add_argument("--num-shots", type=int, default=4)
    parser.add_argument("--num-questions", type=int, default=100)
    parser.add_argument("--num-tokens", type=int, default=96, help="most tokens of an answer")
    parser.add_argument("--num-concurrent", type=int, default=8)
    return parser


if __name__ == "__main__":
    main()
