"""What other people's clients are given: their data, and their command lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from perf.clients import bench_serving, lm_eval

ROWS = [
    {"split": "shot", "question": "1 + 1?", "answer": "It is <<1+1=2>>2.\n#### 2"},
    {"split": "shot", "question": "2 + 2?", "answer": "#### 4"},
    {"split": "test", "question": "500 + 600?", "answer": "Much.\n#### 1,100"},
    {"split": "test", "question": "3 + 4?", "answer": "#### 7"},
]


@pytest.fixture
def gsm8k(tmp_path: Path) -> Path:
    path = tmp_path / "gsm8k.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in ROWS))
    return path


def test_lm_eval_asks_behind_the_examples(gsm8k: Path, tmp_path: Path) -> None:
    lm_eval.write_task(tmp_path, gsm8k, num_shots=1, num_questions=1, num_tokens=9)
    task: Any = orjson.loads((tmp_path / f"{lm_eval.TASK}.yaml").read_bytes())
    (row,) = [orjson.loads(line) for line in Path(task["dataset_kwargs"]["data_files"]["test"]).read_bytes().splitlines()]
    prompt = "Question: 1 + 1?\nAnswer: It is <<1+1=2>>2.\n#### 2\n\nQuestion: 500 + 600?\nAnswer:"
    assert row == {"prompt": prompt, "target": "1,100"}
    assert task["generation_kwargs"]["max_gen_toks"] == 9
    assert task["generation_kwargs"]["temperature"] == 0.0


def test_lm_eval_is_told_of_the_server(tmp_path: Path) -> None:
    flags = ["--venv", "/v", "--tokenizer", "/t", "--gsm8k-path", "/g", "--base-url", "http://h:1"]
    command = lm_eval.command(lm_eval._parser().parse_args(flags), tmp_path)
    assert command[0] == "/v/bin/python"
    model = command[command.index("--model_args") + 1]
    assert "base_url=http://h:1/v1/completions" in model
    assert "tokenizer=/t" in model
    assert command[-4:] == ["--include_path", str(tmp_path), "--tasks", lm_eval.TASK]


def test_bench_serving_gets_conversations(gsm8k: Path, tmp_path: Path) -> None:
    bench_serving.write_conversations(tmp_path / "c.json", gsm8k)
    first, second = orjson.loads((tmp_path / "c.json").read_bytes())
    assert first["conversations"] == [{"from": "human", "value": "500 + 600?"}, {"from": "gpt", "value": "Much.\n#### 1,100"}]
    assert second["conversations"][0]["value"] == "3 + 4?"
    flags = ["--venv", "/v", "--tokenizer", "/t", "--gsm8k-path", "/g", "--backend", "vllm"]
    command = bench_serving.command(bench_serving._parser().parse_args(flags), tmp_path / "c.json")
    assert command[:5] == ["/v/bin/python", "-m", "sglang.bench_serving", "--backend", "vllm"]
    assert command[command.index("--dataset-path") + 1] == str(tmp_path / "c.json")
