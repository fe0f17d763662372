"""What the embedded model writes under a constraint is valid once it has finished, for every real schema, regex and EBNF."""

from __future__ import annotations

import json
import logging
import re
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from jsonschema import validators

from tests.e2e.server_process import ServerProcess
from tests.sampling.ebnf import GRAMMARS, Recognizer
from tests.sampling.regexes import REGEXES

NUM_STREAMS = 8
MAX_NEW_TOKENS = 160

IsValid = Callable[[str], bool]

log = logging.getLogger(__name__)


def constraints(data: Path) -> Iterator[tuple[str, str, IsValid]]:
    """(field of `sampling_params`, source, judge of a text)."""
    for line in (data / "json_schemas.jsonl").read_text(encoding="utf-8").splitlines():
        schema = json.loads(line)["schema"]
        kind = validators.validator_for(schema, default=validators.Draft202012Validator)
        validator = kind(schema, format_checker=kind.FORMAT_CHECKER)
        yield "json_schema", json.dumps(schema), lambda text, validator=validator: validator.is_valid(json.loads(text))
    for pattern in REGEXES:
        yield "regex", pattern, lambda text, pattern=pattern: re.fullmatch(pattern, text) is not None
    for grammar in GRAMMARS:
        yield "ebnf", grammar, Recognizer(grammar).accepts


def generate(url: str, field: str, source: str, seed: int) -> dict[str, Any]:
    params = {field: source, "max_new_tokens": MAX_NEW_TOKENS, "temperature": 0.8, "sampling_seed": seed}
    body = json.dumps({"text": "An example: ", "sampling_params": params}).encode()
    request = urllib.request.Request(url + "/generate", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            answer: dict[str, Any] = json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return {"status": error.code}
    return {"status": 200, "text": answer["text"], "finish": answer["meta_info"]["finish_reason"]["type"]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Possible")  # Python's opinion of [[a]
def test_every_finished_output_is_valid(server: ServerProcess, shared_data: Path) -> None:
    cases = list(constraints(shared_data))
    with ThreadPoolExecutor(NUM_STREAMS) as clients:
        answers = list(clients.map(lambda job: generate(server.url, job[1][0], job[1][1], job[0]), enumerate(cases)))
    counts: Counter[tuple[str, str]] = Counter()
    wrong = []
    for (field, source, is_valid), answer in zip(cases, answers, strict=True):
        assert answer["status"] in (200, 400), (source, answer)
        outcome = answer["finish"] if answer["status"] == 200 else "refused"
        counts[field, outcome] += 1
        if outcome == "stop" and not is_valid(answer["text"]):
            wrong.append((source, answer["text"]))
    log.info("%s", dict(counts))
    assert wrong == []
    assert counts["json_schema", "stop"] > 200
