"""The offline engine: the same answers as `/generate`, from scripts and from inside a running loop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from runtime.engine import Engine
from runtime.errors import ConfigError, EngineError, InvalidRequest

GREEDY = {"temperature": 0, "max_new_tokens": 8}
PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(max_total_tokens=4096) as engine:
        yield engine


def test_a_prompt_is_answered_as_by_generate(engine: Engine) -> None:
    answer = engine.generate(PROMPT, GREEDY)
    assert answer["meta_info"]["completion_tokens"] == 8
    assert answer["meta_info"]["finish_reason"] == {"type": "length", "length": 8}
    assert "Paris" in answer["text"]


def test_a_list_is_answered_by_a_list_in_order(engine: Engine) -> None:
    prompts = [PROMPT, "One, two, three,", PROMPT]
    answers = engine.generate(prompts, GREEDY)
    assert [answer["text"] for answer in answers] == [engine.generate(prompt, GREEDY)["text"] for prompt in prompts]


def test_token_ids_are_a_prompt_too(engine: Engine) -> None:
    assert engine.generate(input_ids=[504, 3575, 282, 4649, 314], sampling_params=GREEDY)["meta_info"]["prompt_tokens"] == 5


def test_a_stream_repeats_its_text_and_ends_with_all_of_it(engine: Engine) -> None:
    texts = [event["text"] for event in engine.generate(PROMPT, GREEDY, stream=True)]
    assert texts[-1] == engine.generate(PROMPT, GREEDY)["text"]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))


def test_leaving_a_stream_ends_its_request(engine: Engine) -> None:
    events = engine.generate(PROMPT, {"max_new_tokens": 2000, "ignore_eos": True}, stream=True)
    next(events)
    events.close()
    assert engine.get_server_info()["internal_states"][0]["num_open_requests"] == 0


def test_it_serves_code_inside_a_running_loop(engine: Engine) -> None:
    async def play() -> tuple[object, list[object], object]:
        whole, other = await asyncio.gather(engine.async_generate(PROMPT, GREEDY), engine.async_generate(PROMPT, GREEDY))
        assert whole["output_ids"] == other["output_ids"]
        events = [event["text"] async for event in await engine.async_generate(PROMPT, GREEDY, stream=True)]
        return whole["text"], events, engine.generate(PROMPT, GREEDY)["text"]

    whole, events, blocking = asyncio.run(play())
    assert whole == events[-1] == blocking


def test_cancelling_a_call_ends_its_request(engine: Engine) -> None:
    async def play() -> None:
        call = asyncio.create_task(engine.async_generate(PROMPT, {"max_new_tokens": 3000, "ignore_eos": True}))
        await engine.async_generate(PROMPT, GREEDY)  # ends long after the other has begun
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert engine.get_server_info()["internal_states"][0]["num_open_requests"] == 0

    asyncio.run(play())


@pytest.mark.parametrize("fields", [{"sampling_params": {"temperature": -1}}, {"no_such_field": 1}, {"prompt": None}])
def test_what_is_wrong_is_refused_and_named(engine: Engine, fields: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        engine.generate(**{"prompt": PROMPT, **fields})
    assert caught.value.failure.param


def test_a_cache_is_flushed(engine: Engine) -> None:
    prompt = PROMPT * 20
    engine.generate(prompt, GREEDY)
    assert engine.generate(prompt, GREEDY)["meta_info"]["cached_tokens"] > 0
    assert engine.flush_cache()
    assert engine.generate(prompt, GREEDY)["meta_info"]["cached_tokens"] == 0


def test_wrong_options_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match="no_such_option"):
        Engine(no_such_option=1)
    with pytest.raises(ConfigError, match="page_size"):
        Engine(page_size="many")


def test_after_the_shutdown_every_call_says_so() -> None:
    engine = Engine(max_total_tokens=1024)
    engine.shutdown()
    engine.shutdown()
    with pytest.raises(EngineError, match="shut down"):
        engine.generate(PROMPT)
