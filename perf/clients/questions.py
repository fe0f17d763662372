"""The questions that these clients ask: school arithmetic with its answers (see perf/workloads/gsm8k.py for the file)."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Question(msgspec.Struct, frozen=True):
    split: str
    question: str
    answer: str


def questions_of(path: Path, split: str) -> list[Question]:
    """Those of one split, `shot` or `test`."""
    rows = [msgspec.json.decode(line, type=Question) for line in path.read_bytes().splitlines()]
    return [row for row in rows if row.split == split]
