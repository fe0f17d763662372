"""Real schemas with instances: each is judged as the data says, in every spelling, or refused by name.

A grammar has the properties in the order of the schema, as
every backend and OpenAI have it; an instance is accepted if it is in some order.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from jsonschema import validators

from runtime.errors import RequestError
from runtime.sampling.grammar_backend import LoadedGrammar
from tests.sampling.judge import Judge, Orders

log = logging.getLogger(__name__)

MAX_REFUSED = 20
NUM_WALKS = 3


@dataclass
class Tally:
    verdicts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    compile_s: list[float] = field(default_factory=list)
    statuses: set[int] = field(default_factory=set)

    def __str__(self) -> str:
        times = sorted(self.compile_s)
        p50, p99 = times[len(times) // 2], times[-1 - len(times) // 100]
        return f"{dict(self.verdicts)}, compile p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.1f} ms"


@pytest.fixture(scope="module")
def rows(shared_data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (shared_data / "json_schemas.jsonl").read_text(encoding="utf-8").splitlines()]


def judged(judge: Judge, row: dict[str, Any], tally: Tally) -> LoadedGrammar | None:
    started = time.perf_counter()
    try:
        grammar = judge.json_schema(row["schema"])
    except RequestError as error:
        tally.verdicts["refused"] += 1
        tally.statuses.add(error.failure.status)
        return None
    tally.compile_s.append(time.perf_counter() - started)
    orders = Orders(row["schema"])
    verdicts = {"raw": True, "ordered": True}
    for expected, values in ((True, row["valid"]), (False, row["invalid"])):
        for value in values:
            raw = judge.accepts_value(grammar, value)
            ordered = judge.accepts_value(grammar, orders.ordered(value))
            verdicts["raw"] &= raw == {expected}
            verdicts["ordered"] &= {expected} in (raw, ordered) if expected else raw == ordered == {False}
    tally.verdicts["exact" if verdicts["raw"] else "exact in the schema's order" if verdicts["ordered"] else "wrong"] += 1
    if not verdicts["ordered"]:
        tally.wrong.append(row["name"])
    return grammar


def walk(judge: Judge, row: dict[str, Any], grammar: LoadedGrammar, tally: Tally) -> None:
    """What the grammar writes is valid, as a validator with formats sees it."""
    cls = validators.validator_for(row["schema"], default=validators.Draft202012Validator)
    validator = cls(row["schema"], format_checker=cls.FORMAT_CHECKER)
    for seed in range(NUM_WALKS):
        text = judge.walk(grammar, Random(seed))
        if text is not None:
            tally.verdicts["walks"] += 1
            errors = [error.message for error in validator.iter_errors(json.loads(text))]
            assert not errors, (row["name"], text, errors)


def check(judge: Judge, sample: list[dict[str, Any]]) -> Tally:
    tally = Tally()
    for row in sample:
        grammar = judged(judge, row, tally)
        if grammar is not None:
            walk(judge, row, grammar, tally)
    log.info("%s", tally)
    assert tally.wrong == []
    assert tally.statuses <= {400}
    return tally


def test_a_sample_of_real_schemas_is_judged_rightly(judge: Judge, rows: list[dict[str, Any]]) -> None:
    check(judge, rows[::6])


@pytest.mark.slow
def test_all_real_schemas_are_judged_rightly(judge: Judge, rows: list[dict[str, Any]]) -> None:
    tally = check(judge, rows)
    assert tally.verdicts["refused"] <= MAX_REFUSED
    assert tally.verdicts["exact"] >= 400
