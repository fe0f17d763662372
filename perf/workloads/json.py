"""Answers bound to a JSON schema. `--json-unconstrained` asks the same without it, for the price of the grammar."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from perf.call import Call, Session, singles
from perf.text import words

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "house": {"enum": ["Gryffindor", "Slytherin", "Ravenclaw", "Hufflepuff"]},
        "alive": {"type": "boolean"},
        "age": {"type": "integer", "minimum": 1, "maximum": 150},
        "wand": {
            "type": "object",
            "properties": {"wood": {"type": "string", "maxLength": 16}, "length": {"type": "number"}},
            "required": ["wood", "length"],
            "additionalProperties": False,
        },
        "friends": {"type": "array", "items": {"type": "string", "maxLength": 16}, "minItems": 2, "maxItems": 4},
    },
    "required": ["name", "house", "alive", "age", "wand", "friends"],
    "additionalProperties": False,
}


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--json-output-len", type=int, default=128, help="most tokens of an answer")
    parser.add_argument("--json-unconstrained", action="store_true", help="the same prompts and lengths without the schema")


def sessions(options: argparse.Namespace, num_sessions: int, seed: int) -> list[Session]:
    rng = np.random.default_rng(seed)
    fields: dict[str, Any] = {}
    if not options.json_unconstrained:
        schema = {"name": "character", "schema": SCHEMA}
        fields = {"response_format": {"type": "json_schema", "json_schema": schema}, "ignore_eos": False}
    prompts = [f"Describe the character {words(rng, 12)} as JSON:\n" for _ in range(num_sessions)]
    return singles(
        Call(prompt, options.json_output_len, may_end_early=not options.json_unconstrained, fields=fields) for prompt in prompts
    )
