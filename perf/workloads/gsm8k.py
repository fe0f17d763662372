"""School arithmetic behind worked examples: real text with a long shared prefix.

The file has a JSON object a line: `split` (`shot` or `test`), `question`, `answer`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import orjson

from perf.call import Call, Session, singles


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--gsm8k-path", type=Path, help="the file; by default gsm8k.jsonl in the folder $CALLBOARD_DATA")
    parser.add_argument("--gsm8k-num-shots", type=int, default=5)
    parser.add_argument("--gsm8k-output-len", type=int, default=96, help="most tokens of an answer")


def sessions(options: argparse.Namespace, num_sessions: int, seed: int) -> list[Session]:
    rows = [orjson.loads(line) for line in _path(options).read_bytes().splitlines()]
    shots = [row for row in rows if row["split"] == "shot"][: options.gsm8k_num_shots]
    tests = [row for row in rows if row["split"] == "test"]
    prefix = "".join(f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in shots)
    chosen = np.random.default_rng(seed).choice(len(tests), num_sessions, replace=num_sessions > len(tests))
    fields = {"stop": ["Question:"], "ignore_eos": False}
    return singles(
        Call(
            f"{prefix}Question: {tests[index]['question']}\nAnswer:",
            options.gsm8k_output_len,
            may_end_early=True,
            fields=fields,
        )
        for index in chosen
    )


def _path(options: argparse.Namespace) -> Path:
    if options.gsm8k_path is not None:
        return Path(options.gsm8k_path)
    folder = os.environ.get("CALLBOARD_DATA")
    if folder is None:
        raise SystemExit("gsm8k needs its file: name it with --gsm8k-path, or its folder with CALLBOARD_DATA")
    return Path(folder) / "gsm8k.jsonl"
