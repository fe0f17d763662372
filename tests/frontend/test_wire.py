"""The requests of every documented program, beside those of SGLang 0.4.3's own frontend, field by field.

SGLang is not a dependency: put it into a folder with `pip install --no-deps --target FOLDER sglang==0.4.3.post2` and that
folder on PYTHONPATH.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import frontend
from frontend import ir
from tests.frontend.fake_server import FakeServer
from tests.frontend.programs import programs
from tests.frontend.sglang_side import METHODS

needs_sglang = pytest.mark.skipif(
    importlib.util.find_spec("sglang") is None, reason="SGLang's frontend (sglang==0.4.3.post2) is not on PYTHONPATH"
)

NAMES = tuple(programs(frontend, ir))
Requests = dict[str, list[Any]]


def sglang_side(home: Path, *arguments: str) -> Any:
    command = [sys.executable, "-m", "tests.frontend.sglang_side", *arguments]
    environment = {**os.environ, "HOME": str(home)}  # SGLang writes files there when it is imported
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def answers(server: FakeServer) -> None:
    server.answer = lambda body: f" answer {len(body['text'])}."


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], Requests]:
    with FakeServer() as server:
        answers(server)
        texts = sglang_side(tmp_path_factory.mktemp("home"), f"{server.url}/{{name}}")
        return texts, by_program(server)


@pytest.fixture(scope="module")
def ours() -> tuple[dict[str, str], Requests]:
    texts = {}
    with FakeServer() as server:
        answers(server)
        for name, run in programs(frontend, ir).items():
            backend = frontend.RuntimeEndpoint(f"{server.url}/{name}")
            result = run(backend)
            texts[name] = "".join(state.text() for state in (result if isinstance(result, list) else [result]))
            backend.shutdown()
        return texts, by_program(server)


def by_program(server: FakeServer) -> Requests:
    found: Requests = {}
    for _, path, body in server.requests:
        _, program, endpoint = path.split("/")
        if endpoint == "generate":
            found.setdefault(program, []).append(body)
    return found


def warms(body: Any) -> bool:
    return bool(body["sampling_params"] == {"max_new_tokens": 0} and "return_logprob" not in body)


def in_order(bodies: Iterator[Any]) -> list[str]:
    return sorted(json.dumps(body, sort_keys=True) for body in bodies)


@needs_sglang
@pytest.mark.parametrize("name", NAMES)
def test_the_requests_are_sglangs(name: str, ours: Any, theirs: Any) -> None:
    """All that generate or score; what only warms the cache is below."""
    mine = [body for body in ours[1][name] if not warms(body)]
    if name == "select_unconditional":
        assert mine[-1].pop("logprob_start_len") == 0  # an improvement: without it the server gives no log probabilities
    assert in_order(iter(mine)) == in_order(body for body in theirs[1][name] if not warms(body))


@needs_sglang
@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_sglang_warms_is_left_out(name: str, ours: Any, theirs: Any) -> None:
    """We warm before every fork, SGLang now and then; and all that a batch has in common, not only its constant beginning."""
    mine = [body["text"] for body in ours[1][name] if warms(body)]
    for body in filter(warms, theirs[1][name]):
        assert any(text.startswith(body["text"]) for text in mine)
    assert len(set(mine)) == len(mine), "nothing is warmed twice"


@needs_sglang
@pytest.mark.parametrize("name", [name for name in NAMES if name != "select_unconditional"])
def test_the_texts_are_sglangs(name: str, ours: Any, theirs: Any) -> None:
    assert ours[0][name] == theirs[0][name]


@needs_sglang
def test_the_methods_choose_as_sglangs(tmp_path: Path) -> None:
    chance = random.Random(7)
    cases = [case_of_choices(chance) for _ in range(200)]
    (tmp_path / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    expected = sglang_side(tmp_path, "-", str(tmp_path / "cases.json"))
    assert [{method: vars(frontend)[method](**case).decision for method in METHODS} for case in cases] == expected


def case_of_choices(chance: random.Random) -> dict[str, Any]:
    """Scores of two to six choices; one may begin another, and values repeat so that ties occur."""
    values = [-chance.randint(1, 40) / 8 for _ in range(4)]
    scores = [
        [[chance.choice(values), token, "t"] for token in range(chance.randint(1, 6))] for _ in range(chance.randint(2, 6))
    ]
    if chance.random() < 0.3:
        scores.append(scores[0] + [[chance.choice(values), 9, "t"]])
    return {
        "choices": [f"choice {index}" for index in range(len(scores))],
        "normalized_prompt_logprobs": [sum(token[0] for token in tokens) / len(tokens) for tokens in scores],
        "input_token_logprobs": scores,
        "output_token_logprobs": [[] for _ in scores],
        "unconditional_token_logprobs": [
            [[None if index == 0 else chance.choice(values), token[1], "t"] for index, token in enumerate(tokens)]
            for tokens in scores
        ],
    }
