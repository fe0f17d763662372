"""Choices: how n and a seed turn one sequence to generate into several."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from runtime.errors import InvalidRequest
from runtime.http.generation import Generation
from runtime.http.info import ServerInfo
from runtime.http.plain_text import PLAIN_TEXT
from runtime.output_plan import OutputParsing
from runtime.params import MAX_CHOICES, MAX_SEED


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """What a schema needs besides the body: the server's facts, the request's id, a source of seeds, the model's parsers."""

    info: ServerInfo
    label: str
    draw_seed: Callable[[], int]
    output_parsing: OutputParsing = PLAIN_TEXT


def check_num_choices(n: int | None, param: str = "n") -> int:
    """`n`, by default 1. Raises `InvalidRequest`."""
    if n is not None and not 1 <= n <= MAX_CHOICES:
        raise InvalidRequest(f"{param} must be in [1, {MAX_CHOICES}]", param=param)
    return n or 1


def choices_of(template: Generation, n: int, seed: int | None, draw_seed: Callable[[], int]) -> list[Generation]:
    """`template` for each of `n` choices; choice i has the seed plus i. Without a seed one is drawn."""
    first = draw_seed() if seed is None else seed
    seeds = [(first + choice) % (MAX_SEED + 1) for choice in range(n)]
    params = template.params
    return [msgspec.structs.replace(template, params=msgspec.structs.replace(params, seed=seed)) for seed in seeds]
