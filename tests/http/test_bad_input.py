"""Bad requests at every door, as streams and not: the right status and param, and nobody else notices."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from runtime.text.output_parsing import OutputParsing
from tests.http.door import CONTEXT_LENGTH, VOCAB_SIZE, Answer, Door, open_door

CHAT, COMPLETIONS, GENERATE, RESPONSES = "/v1/chat/completions", "/v1/completions", "/generate", "/v1/responses"
GOOD: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
    COMPLETIONS: {"prompt": "hi", "max_tokens": 2},
    GENERATE: {"text": "hi", "sampling_params": {"max_new_tokens": 2}},
    RESPONSES: {"input": "hi", "max_output_tokens": 2},
}
NUM_COTENANTS = 8

TOOLS: list[Any] = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


def deep(depth: int) -> dict[str, Any]:
    """Objects in objects."""
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"not": value}
    return value


# Wrong sampling options: (name, value). They are the same at all doors.
SAMPLING: list[tuple[str, Any]] = [
    *[("temperature", value) for value in (-0.1, 1e7, "hot", True, [], {})],
    *[("top_p", value) for value in (0, -1, 1.1, "x")],
    *[("min_p", value) for value in (-0.1, 1.1)],
    *[("top_k", value) for value in (0, -2, 1.5, 2**40, True)],
    *[("frequency_penalty", value) for value in (-2.1, 2.1)],
    *[("presence_penalty", value) for value in (-2.1, 2.1)],
    *[("repetition_penalty", value) for value in (0, 2.1)],
    *[("n", value) for value in (0, -1, 129, 10**9, 2**63, "5", True, 1.5)],
    *[("stop", value) for value in (["x"] * 17, "x" * 257, [""], "", [1], 5)],
    *[("stop_token_ids", value) for value in ([-1], [VOCAB_SIZE], [2**31], [2**63], [10**40], [True], [1] * 257, ["1"])],
    *[("logit_bias", value) for value in ({str(VOCAB_SIZE): 1}, {"-1": 1}, {"x": 1}, {"1": 101}, {"1": "x"}, [1])],
    ("logit_bias", {str(token_id): 0 for token_id in range(1025)}),
    ("ignore_eos", "yes"),
    ("skip_special_tokens", 1),
    ("no_such_option", 1),
]

# Where a door has its own name: (path, body changes, param).
NAMED: list[tuple[str, dict[str, Any], str | None]] = [
    *[
        (GENERATE, {"sampling_params": {"max_new_tokens": value}}, "sampling_params.max_new_tokens")
        for value in (-1, "1", 2**40)
    ],
    *[(GENERATE, {"sampling_params": {"max_new_tokens": None, "min_new_tokens": 10**12}}, "sampling_params.min_new_tokens")],
    (GENERATE, {"sampling_params": {"max_new_tokens": 2, "min_new_tokens": 3}}, "sampling_params.min_new_tokens"),
    *[(GENERATE, {"sampling_params": {"sampling_seed": value}}, "sampling_params.sampling_seed") for value in (-1, 2**63)],
    (GENERATE, {"sampling_params": [{}, {}]}, "sampling_params"),
    (GENERATE, {"text": ["a", "b"], "sampling_params": [{"n": 1}, {"n": 2}]}, "sampling_params.n"),
    (GENERATE, {"text": ["a"] * 64, "sampling_params": {"n": 5}}, "sampling_params.n"),
    (GENERATE, {"text": None}, "text"),
    (GENERATE, {"text": ["a", 1]}, "text[1]"),
    (GENERATE, {"text": ["a", ""]}, "text[1]"),
    (GENERATE, {"rid": ["a", "b"]}, "rid"),
    (GENERATE, {"input_ids": [1, [2]]}, "input_ids[1]"),
    (GENERATE, {"input_ids": "hi"}, "input_ids"),
    (GENERATE, {"text": [1, 2]}, "text"),
    (GENERATE, {"input_ids": [[1], 2]}, "input_ids[1]"),
    (GENERATE, {"text": None, "input_ids": [True]}, "input_ids[0]"),
    (COMPLETIONS, {"prompt": None}, "prompt"),
    (COMPLETIONS, {"rid": "x" * 257}, "rid"),
    (COMPLETIONS, {"priority": 2**63}, "priority"),
    (COMPLETIONS, {"prompt": {}}, "prompt"),
    (COMPLETIONS, {"prompt": [True]}, "prompt[0]"),
    (COMPLETIONS, {"prompt": [1.0]}, "prompt[0]"),
    (COMPLETIONS, {"prompt": [[]]}, "prompt[0]"),
    (COMPLETIONS, {"prompt": ["a", ""]}, "prompt[1]"),
    (COMPLETIONS, {"prompt": ["a", 1]}, "prompt[1]"),
    (COMPLETIONS, {"prompt": ["a"] * 64, "n": 5}, "n"),
    *[(COMPLETIONS, {"max_tokens": value}, "max_tokens") for value in (0, -1, "1", 2**40)],
    (COMPLETIONS, {"max_tokens": 2, "min_tokens": 3}, "min_tokens"),
    (COMPLETIONS, {"seed": -1}, "seed"),
    (COMPLETIONS, {"stream": False, "stream_options": {"include_usage": True}}, "stream_options"),
    (COMPLETIONS, {"stream_options": {"colour": 1}}, "stream_options.colour"),
    (CHAT, {"max_tokens": 0}, "max_tokens"),
    (CHAT, {"max_tokens": 1, "max_completion_tokens": -1}, "max_completion_tokens"),
    (CHAT, {"max_completion_tokens": 2, "min_tokens": 3}, "min_tokens"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": None}, "messages"),
    (CHAT, {"messages": "hi"}, "messages"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    (CHAT, {"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user", "content": "x", "hat": 1}]}, "messages[0].hat"),
    (CHAT, {"continue_final_message": True}, "continue_final_message"),
    (CHAT, {"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
    (CHAT, {"chat_template_kwargs": 5}, "chat_template_kwargs"),
    (CHAT, {"chat_template_kwargs": {"x": "y" * 2**17}}, "chat_template_kwargs"),
    *[(CHAT, {"logprobs": value}, "logprobs") for value in (1, "yes", [])],
    *[(CHAT, {"logprobs": True, "top_logprobs": value}, "top_logprobs") for value in (-1, 21, 10**6, 2**70, 1.5, True)],
    (CHAT, {"top_logprobs": 5}, "top_logprobs"),
    *[(COMPLETIONS, {"logprobs": value}, "logprobs") for value in (-1, 21, 10**6, 2**70, 1.5, True, "1")],
    *[(COMPLETIONS, {"best_of": value}, "best_of") for value in (0, -1, 129, 10**9, 2**63, "5", True, 1.5)],
    (COMPLETIONS, {"n": 3, "best_of": 2}, "best_of"),
    (COMPLETIONS, {"prompt": ["a"] * 64, "best_of": 5, "stream": False}, "best_of"),
    (COMPLETIONS, {"best_of": 2, "stream": True}, "best_of"),
    (COMPLETIONS, {"echo": "yes"}, "echo"),
    (COMPLETIONS, {"echo": True, "max_tokens": -1}, "max_tokens"),
    *[
        (path, {"response_format": value}, param)
        for path in (CHAT, COMPLETIONS)
        for value, param in (
            ("json", "response_format"),
            ([], "response_format"),
            ({}, "response_format.type"),
            ({"type": "xml"}, "response_format.type"),
            ({"type": "json_schema"}, "response_format.json_schema"),
            ({"type": "json_schema", "json_schema": {"name": "x"}}, "response_format.json_schema.schema"),
            ({"type": "json_schema", "json_schema": {"schema": 5}}, "response_format.json_schema.schema"),
            ({"type": "json_schema", "json_schema": {"schema": deep(100)}}, "response_format.json_schema.schema"),
            ({"type": "json_schema", "json_schema": {"schema": {"x": "y" * 2**19}}}, "response_format"),
            ({"type": "text", "colour": 1}, "response_format.colour"),
        )
    ],
    *[
        (path, changes, param)
        for path in (CHAT, COMPLETIONS)
        for changes, param in (
            ({"regex": "a", "ebnf": "root ::= a"}, "ebnf"),
            ({"regex": "a", "response_format": {"type": "json_object"}}, "regex"),
            ({"json_schema": "{}", "structural_tag": "{}"}, "structural_tag"),
            ({"json_schema": "{"}, "json_schema"),
            ({"json_schema": "[]"}, "json_schema"),
            ({"regex": 5}, "regex"),
            ({"regex": "a" * 10**5}, "regex"),
            ({"ebnf": "a" * 10**6}, "ebnf"),
        )
    ],
    *[
        (CHAT, {"tools": value}, param)
        for value, param in (
            ("f", "tools"),
            ({}, "tools"),
            ([5], "tools[0]"),
            ([{}], "tools[0]"),
            ([{"type": "function", "function": {}}], "tools[0].function"),
            ([{"type": "web_search"}], "tools[0].type"),
            ([{"type": "function", "function": {"name": 5}}], "tools[0].function.name"),
            ([{"type": "function", "function": {"name": ""}}], "tools[0].function.name"),
            ([{"type": "function", "function": {"name": "a b"}}], "tools[0].function.name"),
            ([{"type": "function", "function": {"name": "f", "parameters": []}}], "tools[0].function.parameters"),
            ([{"type": "function", "function": {"name": "f", "parameters": deep(100)}}], "tools[0]"),
            *(
                (
                    [{"type": "function", "function": {"name": "f", "parameters": {"type": kind}}}],
                    "tools[0].function.parameters",
                )
                for kind in ("string", "Object", None, 5, [], ["array", "null"], {})
            ),
            ([*TOOLS, *TOOLS], "tools[1]"),
            ([{"type": "function", "function": {"name": f"f{number}"}} for number in range(257)], "tools"),
        )
    ],
    *[
        (CHAT, {"tools": TOOLS, "tool_choice": value}, param)
        for value, param in (
            ("maybe", "tool_choice"),
            (5, "tool_choice"),
            ({"type": "function", "function": {"name": "g"}}, "tool_choice"),
            ({"type": "function", "function": {}}, "tool_choice.function.name"),
            ({"type": "web_search", "function": {"name": "f"}}, "tool_choice.type"),
        )
    ],
    (CHAT, {"tool_choice": "required"}, "tool_choice"),
    (CHAT, {"tools": TOOLS, "tool_choice": "required", "regex": "a"}, "tool_choice"),
    (CHAT, {"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    *[(CHAT, {"reasoning_effort": value}, "reasoning_effort") for value in ("huge", -0.1, 1.0, [])],
    (CHAT, {"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    *[
        (CHAT, {"messages": [{"role": "assistant", "tool_calls": [call]}]}, param)
        for call, param in (
            ({"id": "x"}, "messages[0].tool_calls[0].function"),
            ({"function": {"name": "f", "arguments": "{"}}, "messages[0].tool_calls[0].function.arguments"),
            ({"function": {"name": "f", "arguments": "[]"}}, "messages[0].tool_calls[0].function.arguments"),
            ({"function": {"name": "f", "arguments": deep(100)}}, "messages[0].tool_calls[0].function.arguments"),
            ({"function": {"name": "f", "arguments": 5}}, "messages[0].tool_calls[0].function.arguments"),
            ({"type": "x", "function": {"name": "f"}}, "messages[0].tool_calls[0].type"),
        )
    ],
    (
        CHAT,
        {"messages": [{"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}]},
        "messages[0].tool_calls",
    ),
    (CHAT, {"messages": [{"role": "tool", "tool_call_id": "x"}]}, "messages[0].content"),
    *[(RESPONSES, {"max_output_tokens": value}, "max_output_tokens") for value in (0, -1, "1", 2**40, 1.5)],
    *[(RESPONSES, {"top_logprobs": value}, "top_logprobs") for value in (-1, 21, 10**6, 1.5)],
    *[
        (RESPONSES, {"input": value}, param)
        for value, param in (
            (None, "input"),
            (5, "input"),
            ({}, "input"),
            ([], "input"),
            ([5], "input[0]"),
            ([{}], "input[0].role"),
            ([{"role": "king", "content": "x"}], "input[0].role"),
            ([{"role": "user"}], "input[0].content"),
            ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0].text"),
            ([{"type": "function_call", "call_id": "x"}], "input[0].name"),
            ([{"type": "function_call", "call_id": "x", "name": "f", "arguments": "["}], "input[0].arguments"),
            ([{"type": "function_call", "name": "f", "arguments": "{}"}], "input[0].call_id"),
            ([{"type": "function_call_output", "call_id": "x"}], "input[0].output"),
            ([{"role": "user", "content": "x", "extra": deep(100)}], "input"),
        )
    ],
    (RESPONSES, {"include": ["x", 5]}, "include[1]"),
    (RESPONSES, {"metadata": {"x": "y" * 2**15}}, "metadata"),
    (RESPONSES, {"metadata": deep(100)}, "metadata"),
    (RESPONSES, {"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    (RESPONSES, {"text": {"format": {"type": "xml"}}}, "text.format.type"),
    (RESPONSES, {"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
    (RESPONSES, {"text": {"format": {"type": "text", "schema": deep(100)}}}, "text.format"),
    (RESPONSES, {"text": {"format": {"type": "json_object"}}, "regex": "a"}, "regex"),
    (RESPONSES, {"tools": [{"type": "function", "name": "a b"}]}, "tools[0].function.name"),
    (RESPONSES, {"tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
    (RESPONSES, {"previous_response_id": "x" * 257}, "previous_response_id"),
    (RESPONSES, {"model": 5}, "model"),
]

# What is not there yet: (path, body changes, param).
UNSUPPORTED: list[tuple[str, dict[str, Any], str]] = [
    *[
        (path, {name: "x"}, name)
        for path in (CHAT, COMPLETIONS)
        for name in ("lora_path", "session_id", "stop_regex", "return_hidden_states", "custom_logit_processor")
    ],
    (CHAT, {"functions": [{"name": "f"}]}, "functions"),
    (CHAT, {"modalities": ["text", "audio"]}, "modalities"),
    (CHAT, {"tools": TOOLS, "tool_choice": "required"}, "tool_choice"),
    *[
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, part]}]},
            "messages[0].content[1].type",
        )
        for part in (
            {"type": "image_url", "image_url": {}},
            {"type": "input_audio", "input_audio": {}},
            {"type": "video_url"},
            {"type": "file"},
        )
    ],
    (CHAT, {"messages": [{"role": "assistant", "function_call": {"name": "x"}}]}, "messages[0].function_call"),
    (COMPLETIONS, {"suffix": "x"}, "suffix"),
    *[
        (RESPONSES, {name: value}, name)
        for name, value in (
            ("background", True),
            ("conversation", "conv_1"),
            ("prompt", {"id": "x"}),
            ("truncation", "auto"),
            ("n", 2),
        )
    ],
    (RESPONSES, {"include": ["everything"]}, "include[0]"),
    (RESPONSES, {"tools": [{"type": "web_search"}]}, "tools[0].type"),
    (RESPONSES, {"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    (RESPONSES, {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
    (GENERATE, {"image_data": "x"}, "image_data"),
    (GENERATE, {"image_data": ["x"]}, "image_data"),
    (GENERATE, {"input_embeds": [[0.1]]}, "input_embeds"),
    (GENERATE, {"custom_logit_processor": "x"}, "custom_logit_processor"),
    (GENERATE, {"lora_path": "x"}, "lora_path"),
    *[
        (GENERATE, {"sampling_params": {name: "x"}}, f"sampling_params.{name}")
        for name in ("stop_regex", "beam_width", "watermark", "stream_interval")
    ],
]

# Token ids at both doors that take them: (ids, what follows the field's name in param).
TOKEN_IDS: list[tuple[Any, str]] = [
    ([-1], ""),
    ([VOCAB_SIZE], ""),
    ([1, 2**31], ""),
    ([2**63], ""),
    ([10**30], ""),
    ([], ""),
    ([[1], [VOCAB_SIZE]], "[1]"),
    ([[1], []], "[1]"),
    ([1, [1]], ""),
    ([1, "1"], ""),
    ([[["a"]]], "[0][0]"),
]

# Bodies that no schema sees, or that are too much: (body, status).
RAW: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"[]", 400),
    (b"[" * 10**6, 400),
    (b'{"text": "\\ud800"}', 400),
    (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400),
    (b'{"prompt": "\xff"}', 400),
    (b'{"sampling_params": {"temperature": NaN}}', 400),
    (b'{"temperature": 1e999}', 400),
    (b"\xef\xbb\xbf{}", 400),
    (b" " * (2**21), 413),
]


async def send(door: Door, path: str, changes: dict[str, Any], is_streaming: bool) -> Answer:
    return await door.post(path, GOOD[path] | {"stream": is_streaming} | changes)


def refused(answer: Answer, param: str | None, code: str | None = None, status: int = 400) -> None:
    what = (answer.status, answer.body[:300])
    assert answer.status == status, what
    assert answer.error["type"] == "invalid_request_error", what
    assert answer.error["param"] == param, what
    assert answer.error["code"] == code, what
    assert len(answer.body) < 1000


async def among_cotenants(door: Door, attack: Any) -> None:
    """Eight streams run beside the attack and say what they say on a quiet server."""
    body = {"sampling_params": {"max_new_tokens": 30, "sampling_seed": 9}, "stream": True}
    bodies = [body | {"text": f"pause:5 cotenant {number}"} for number in range(NUM_COTENANTS)]
    async with asyncio.TaskGroup() as group:
        streams = [group.create_task(door.post(GENERATE, one)) for one in bodies]
        await door.until(lambda: len(door.script.tokenized) == NUM_COTENANTS)
        await attack
        assert len(door.script.tokenized) == NUM_COTENANTS, "a bad request reached the engine"
        assert len(door.script.running) == NUM_COTENANTS
        door.release()
    texts = [one.result().events[-1]["text"] for one in streams]
    quiet = [(await door.post(GENERATE, one)).events[-1]["text"] for one in bodies]
    assert texts == quiet
    await door.assert_unharmed()


def check(attack: Any) -> None:
    async def main() -> None:
        async with open_door(max_body_bytes=2**20) as door:
            await among_cotenants(door, attack(door))

    asyncio.run(main())


@pytest.mark.parametrize("is_streaming", [False, True])
@pytest.mark.parametrize("path", GOOD)
def test_sampling_options(path: str, is_streaming: bool) -> None:
    async def attack(door: Door) -> None:
        for name, value in SAMPLING:
            if path == GENERATE:
                answer = await send(door, path, {"sampling_params": {"max_new_tokens": 2, name: value}}, is_streaming)
            else:
                answer = await send(door, path, {name: value}, is_streaming)
            param = answer.error["param"].removeprefix("sampling_params.")
            assert param.partition("[")[0] == name, (name, value, answer.error)
            refused(answer, answer.error["param"])

    check(attack)


@pytest.mark.parametrize("is_streaming", [False, True])
def test_fields_by_the_names_of_their_door(is_streaming: bool) -> None:
    async def attack(door: Door) -> None:
        for path, changes, param in NAMED:
            refused(await send(door, path, changes, is_streaming), param)

    check(attack)


@pytest.mark.parametrize("is_streaming", [False, True])
def test_features_that_are_not_there(is_streaming: bool) -> None:
    async def attack(door: Door) -> None:
        for path, changes, param in UNSUPPORTED:
            refused(await send(door, path, changes, is_streaming), param, "unsupported_parameter")

    check(attack)


@pytest.mark.parametrize("is_streaming", [False, True])
@pytest.mark.parametrize(("path", "field"), [(GENERATE, "input_ids"), (COMPLETIONS, "prompt")])
def test_token_ids(path: str, field: str, is_streaming: bool) -> None:
    async def attack(door: Door) -> None:
        for value, suffix in TOKEN_IDS:
            answer = await send(door, path, {field: value}, is_streaming)
            if answer.error["param"] != field + suffix:  # a door that takes no strings finds out earlier
                assert answer.error["param"].startswith(field), answer.error
            refused(answer, answer.error["param"])
        refused(await send(door, path, {field: [1] * CONTEXT_LENGTH}, is_streaming), field, "context_length_exceeded")
        refused(await send(door, path, {field: [[1], [1] * 10**5]}, is_streaming), f"{field}[1]", "context_length_exceeded")

    check(attack)


@pytest.mark.parametrize("path", GOOD)
def test_raw_bytes(path: str) -> None:
    async def attack(door: Door) -> None:
        for body, status in RAW:
            answer = await door.post(path, body)
            assert answer.status == status, body[:40]
            assert answer.error["type"] == "invalid_request_error"

    check(attack)


def test_lists_of_a_million_items_cost_nothing() -> None:
    async def main() -> None:
        async with open_door() as door:
            for path, field, item in [
                (COMPLETIONS, "prompt", "a"),
                (COMPLETIONS, "prompt", 1),
                (COMPLETIONS, "prompt", [1]),
                (GENERATE, "text", "a"),
                (GENERATE, "input_ids", 1),
                (GENERATE, "input_ids", [1]),
                (CHAT, "messages", {"role": "user", "content": ""}),
            ]:
                num_items = 10**6 if path != CHAT else 10**5
                body = orjson.dumps(GOOD[path] | {"text": None} if path == GENERATE else GOOD[path])[:-1]
                million = orjson.dumps(item) + b"," + b",".join([orjson.dumps(item)] * (num_items - 1))
                body = body.replace(b'"text":null,', b"").replace(b'"prompt":"hi",', b"")
                body = body.replace(orjson.dumps(GOOD[CHAT])[1:-1].split(b"]")[0] + b"],", b"")
                answer = await door.post(path, body + b',"' + field.encode() + b'":[' + million + b"]}")
                assert answer.status == 400, (path, field, answer.body)
                assert answer.error["param"] == field
            assert not door.script.tokenized
            await door.assert_unharmed()

    asyncio.run(main())


# What does not compile, far behind the door: (path, how it is written, what is to blame).
GRAMMARS: list[tuple[str, dict[str, Any], str]] = [
    *[
        (path, changes, param)
        for path in (CHAT, COMPLETIONS)
        for changes, param in (
            ({"response_format": {"type": "json_object"}}, "response_format"),
            ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "response_format"),
            ({"regex": "("}, "regex"),
            ({"json_schema": "{}"}, "json_schema"),
        )
    ],
    (CHAT, {"tools": TOOLS, "tool_choice": "required"}, "tools"),
    (RESPONSES, {"tools": [{"type": "function", "name": "f"}], "tool_choice": "required"}, "tools"),
    (RESPONSES, {"text": {"format": {"type": "json_object"}}}, "text.format"),
    (RESPONSES, {"regex": "("}, "regex"),
]


@pytest.mark.parametrize("is_streaming", [False, True])
def test_a_grammar_that_does_not_compile_is_blamed_on_its_field(is_streaming: bool) -> None:
    prompts: dict[str, dict[str, Any]] = {
        CHAT: {"messages": [{"role": "user", "content": "bad grammar"}]},
        COMPLETIONS: {"prompt": "bad grammar"},
        RESPONSES: {"input": "bad grammar"},
    }

    async def main() -> None:
        async with open_door(output_parsing=OutputParsing("qwen25", None)) as door:
            for path, changes, param in GRAMMARS:
                answer = await door.post(path, prompts[path] | changes | {"stream": is_streaming})
                refused(answer, param)
            await door.assert_unharmed()

    asyncio.run(main())


def test_models_that_are_not_served() -> None:
    async def main() -> None:
        async with open_door() as door:
            for path in (CHAT, COMPLETIONS):
                for model in ("gpt-17", "", "org/tiny:adapter"):
                    answer = await send(door, path, {"model": model}, True)
                    assert answer.status == 404
                    assert answer.error["type"] == "not_found_error"
                    assert (answer.error["param"], answer.error["code"]) == ("model", "model_not_found")
                for model in ("org/tiny", "/models/tiny", "default", None):
                    assert (await send(door, path, {"model": model}, False)).status == 200

    asyncio.run(main())


def test_harmless_fields_are_accepted() -> None:
    """What clients send by habit must not break them."""
    harmless_openai = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "lora_path": None,
        "regex": None,
        "response_format": {"type": "text"},
        "logit_bias": None,
        "n": None,
        "stop": None,
        "temperature": None,
        "seed": None,
    }
    chat = {"tools": [], "tool_choice": "none", "logprobs": False, "parallel_tool_calls": True, "modalities": ["text"]}
    native = {
        "lora_path": None,
        "return_logprob": False,
        "logprob_start_len": -1,
        "top_logprobs_num": 0,
        "image_data": None,
        "modalities": [],
        "log_metrics": True,
        "model": "x",
        "sampling_params": {"max_new_tokens": 2, "stop_regex": [], "regex": "", "n": 1, "stop": [], "temperature": None},
    }

    async def main() -> None:
        async with open_door() as door:
            assert (await send(door, CHAT, harmless_openai | chat, False)).status == 200
            assert (await send(door, COMPLETIONS, harmless_openai | {"best_of": 1, "echo": False}, False)).status == 200
            assert (await send(door, GENERATE, native, False)).status == 200

    asyncio.run(main())
