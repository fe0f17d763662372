"""Requests made from the description of the API, right and wrong ones: the server never fails, and says nothing undescribed."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from tests.http.door import MODEL, Door, open_door


def never_fails(ctx: Any, response: Any, case: Any) -> None:
    """The door of these tests has no storage for files, and says so; any other 5xx is a failure."""
    assert response.status_code < 500 or b'"storage_failed"' in response.content, response.text


CHECKS = [
    never_fails,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    unsupported_method,
]
TIMEOUT_S = 10
NUM_EXAMPLES = 8
NUM_THOROUGH = 1000
"""Of each route, right and wrong ones together. To make them takes 20 to 250 ms each, to answer them one or two."""


@contextmanager
def served() -> Iterator[Door]:
    """The door on a loop of its own, since the client here waits for its answers."""
    ready: list[Door] = []
    started, stop = threading.Event(), threading.Event()

    async def main() -> None:
        async with open_door(max_body_bytes=2**20) as door:
            door.script.max_tokens, door.script.value = 3, []
            ready.append(door)
            started.set()
            await asyncio.to_thread(stop.wait)
            door.script.max_tokens = None
            await door.assert_unharmed()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    started.wait()
    try:
        yield ready[0]
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    with served() as one:
        yield one


def description() -> dict[str, Any]:
    with served() as door:
        api: dict[str, Any] = requests.get(door.url + "/openapi.json", timeout=TIMEOUT_S).json()
        return api


API = description()


def attacks() -> Iterator[tuple[str, str, GenerationMode]]:
    """Nothing can be wrong with a request that has no body and no query."""
    for path, methods in API["paths"].items():
        for method, operation in methods.items():
            yield path, method, GenerationMode.POSITIVE
            if "requestBody" in operation or any(one["in"] == "query" for one in operation.get("parameters", ())):
                yield path, method, GenerationMode.NEGATIVE


ATTACKS = sorted(attacks(), key=lambda attack: (attack[0], attack[1], attack[2].value))


def attack(door: Door, path: str, method: str, mode: GenerationMode, num_examples: int) -> None:
    schema = schemathesis.openapi.from_dict(API)
    with requests.Session() as session, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that make the requests

        @given(case=schema[path][method].as_strategy(generation_mode=mode))
        @settings(
            max_examples=num_examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case: Any) -> None:
            response = case.call(base_url=door.url, session=session, timeout=TIMEOUT_S)
            case.validate_response(response, checks=CHECKS)

        check()


@pytest.mark.parametrize(("path", "method", "mode"), ATTACKS)
def test_every_route(door: Door, path: str, method: str, mode: GenerationMode) -> None:
    attack(door, path, method, mode, NUM_EXAMPLES)


STREAMS: dict[str, dict[str, Any]] = {
    "/generate": {"text": "hi"},
    "/v1/completions": {"prompt": "hi"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"model": MODEL, "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}]},
}


@pytest.mark.parametrize("path", STREAMS)
def test_streams_are_as_described(path: str) -> None:
    """Few bodies that are made up are right, and ask for a stream too. On a server whose model nobody has replaced."""
    case = schemathesis.openapi.from_dict(API)[path]["post"].Case(
        body={**STREAMS[path], "stream": True}, media_type="application/json"
    )
    with served() as fresh:
        response = case.call(base_url=fresh.url, timeout=TIMEOUT_S)
    assert response.headers["content-type"][0].startswith("text/event-stream"), response.text
    case.validate_response(response, checks=CHECKS)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "method", "mode"), ATTACKS)
def test_every_route_thoroughly(path: str, method: str, mode: GenerationMode) -> None:
    num_modes = sum((path, method) == attacked[:2] for attacked in ATTACKS)
    with served() as fresh:  # a thousand sessions are too many for one server
        attack(fresh, path, method, mode, NUM_THOROUGH // num_modes)
