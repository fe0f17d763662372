"""`/generate` field by field: what reaches the engine, and what the reply says."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import msgspec
import orjson
import pytest

from runtime.http.service import SERVICE
from runtime.messages import Tokenize
from runtime.params import GrammarSpec, LogprobOptions, TokenPrompt
from tests.http.door import INFO, Answer, Door, open_door
from tests.http.scripted import ALPHABET, expected, token

IDS = [10, 11, 12, 13, 14]


def run(test: Any, **options: Any) -> None:
    async def main() -> None:
        async with open_door(**options) as door:
            await test(door)
            await door.assert_unharmed()

    asyncio.run(main())


async def ask(door: Door, **body: Any) -> Any:
    answer = await door.post("/generate", {"sampling_params": {"max_new_tokens": 2}, **body})
    assert answer.status == 200, answer.body
    return answer.json


async def refused(door: Door, param: str, **body: Any) -> Answer:
    answer = await door.post("/generate", {"text": "x", **body})
    assert (answer.status, answer.error["param"]) == (400, param), answer.body
    return answer


async def sent(door: Door, **body: Any) -> Tokenize:
    """What the engine is told."""
    await ask(door, **{"text": "x", **body})
    return door.script.tokenized[-1]


# -- log probabilities -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "first", "has_null"),
    [(0, 0, True), (1, 2, False), (2, 3, False), (3, 4, False), (4, 5, False), (5, 5, False), (99, 5, False), (-1, 5, False)],
)
@pytest.mark.parametrize("is_streaming", [False, True])
def test_which_tokens_of_the_prompt_have_log_probabilities(start: int, first: int, has_null: bool, is_streaming: bool) -> None:
    """The table of SGLang 0.4.3, for a prompt of 5 tokens: n, n - 1 - k or none."""

    async def test(door: Door) -> None:
        body = {"input_ids": IDS, "return_logprob": True, "logprob_start_len": start, "top_logprobs_num": 1}
        answer = await door.post("/generate", {**body, "stream": is_streaming, "sampling_params": {"max_new_tokens": 2}})
        meta = (answer.events[-1] if is_streaming else answer.json)["meta_info"]
        values = [None if has_null and index == 0 else -one for index, one in enumerate(IDS)]
        assert meta["input_token_logprobs"] == [
            [value, one, None] for value, one in list(zip(values, IDS, strict=True))[first:]
        ]
        tops = [None if has_null and index == 0 else [[0, 0, None]] for index in range(5)]
        assert meta["input_top_logprobs"] == tops[first:]
        assert "input_token_ids_logprobs" not in meta

    run(test)


@pytest.mark.parametrize("prompt", [{"input_ids": [7]}, {"text": "\a"}])
def test_a_prompt_of_one_token_shows_it_by_default(prompt: dict[str, Any]) -> None:
    async def test(door: Door) -> None:
        meta = (await ask(door, **prompt, return_logprob=True))["meta_info"]
        assert meta["input_token_logprobs"] == [[None, 7, None]]

    run(test)


def test_a_prompt_of_several_short_tokens_shows_none_by_default() -> None:
    async def test(door: Door) -> None:
        meta = (await ask(door, text="ab", return_logprob=True, top_logprobs_num=1, token_ids_logprob=[3]))["meta_info"]
        assert (meta["input_token_logprobs"], meta["input_top_logprobs"], meta["input_token_ids_logprobs"]) == ([], [], [])

    run(test)


@pytest.mark.parametrize("is_streaming", [False, True])
def test_shapes_of_the_output(is_streaming: bool) -> None:
    async def test(door: Door) -> None:
        body = {
            "text": "hi",
            "return_logprob": True,
            "top_logprobs_num": 2,
            "token_ids_logprob": [4, 3],
            "stream": is_streaming,
        }
        sampling = {"max_new_tokens": 3, "sampling_seed": 5}
        answer = await door.post("/generate", {**body, "return_text_in_logprobs": True, "sampling_params": sampling})
        meta = (answer.events[-1] if is_streaming else answer.json)["meta_info"]
        ids = [token("hi", 5, position) for position in range(3)]
        assert meta["output_token_logprobs"] == [[-one, one, ALPHABET[one]] for one in ids]
        assert meta["output_token_logprobs_length"] == 3
        assert meta["output_top_logprobs"] == [[[0, 0, ALPHABET[0]], [-1, 1, ALPHABET[1]]]] * 3
        assert meta["output_token_ids_logprobs"] == [[[-4, 4, ALPHABET[4]], [-3, 3, ALPHABET[3]]]] * 3
        if is_streaming:  # each event has all from the start
            lengths = [event["meta_info"]["output_token_logprobs_length"] for event in answer.events]
            assert lengths == sorted(lengths)
            for event in answer.events:
                assert len(event["meta_info"]["output_token_logprobs"]) == len(event["output_ids"])

    run(test)


def test_each_prompt_of_a_batch_has_its_own_options() -> None:
    async def test(door: Door) -> None:
        results = await ask(
            door,
            text=["a", "b", "c"],
            return_logprob=[True, False, True],
            logprob_start_len=[0, -1, None],
            top_logprobs_num=[0, 3, 1],
            token_ids_logprob=[[1], None, []],
        )
        assert [message.logprobs for message in door.script.tokenized] == [
            LogprobOptions(num_top=0, token_ids=(1,), prompt_start=0),
            None,
            LogprobOptions(num_top=1, prompt_start=0),
        ]
        assert ["output_token_logprobs" in result["meta_info"] for result in results] == [True, False, True]
        await ask(door, text=["a" * 20, "b"], return_logprob=True, token_ids_logprob=[1, 2], logprob_start_len=3)
        both = LogprobOptions(token_ids=(1, 2), prompt_start=4)
        assert [message.logprobs for message in door.script.tokenized[-2:]] == [both, both]

    run(test)


def test_log_probabilities_out_of_range() -> None:
    async def test(door: Door) -> None:
        for value in (-1, 21, 10**6, "5", True, 1.5):
            await refused(door, "top_logprobs_num", return_logprob=True, top_logprobs_num=value)
        for ids in ([-1], [1000], [2**31], [2**63], [0] * 129):
            answer = await door.post("/generate", {"text": "x", "return_logprob": True, "token_ids_logprob": ids})
            assert answer.status == 400
            assert answer.error["param"].partition("[")[0] == "token_ids_logprob"
        await refused(door, "token_ids_logprob", return_logprob=True, token_ids_logprob=[0] * 10**5)
        await refused(door, "logprob_start_len", return_logprob=True, logprob_start_len=-2)
        await refused(door, "return_logprob", return_logprob=[True, False])
        await refused(door, "return_logprob", return_logprob="yes")
        await refused(door, "top_logprobs_num", top_logprobs_num=2)
        await refused(door, "token_ids_logprob", token_ids_logprob=[2])
        assert not door.script.tokenized

    run(test)


# -- other fields ------------------------------------------------------------------------------------------------------


def test_one_grammar_at_most() -> None:
    grammars: dict[str, Any] = {
        "json_schema": '{"type": "object"}',
        "regex": "a+",
        "ebnf": 'root ::= "a"',
        "structural_tag": {"type": "structural_tag", "structures": [], "triggers": []},
    }

    async def test(door: Door) -> None:
        for kind, source in grammars.items():
            message = await sent(door, sampling_params={"max_new_tokens": 2, kind: source, "stop": None})
            text = source if isinstance(source, str) else orjson.dumps(source).decode()
            assert message.grammar is not None
            assert message.grammar.kind == kind
            assert orjson.loads(message.grammar.source) == orjson.loads(text) if kind == "structural_tag" else True
            assert message.grammar.source == text or kind == "structural_tag"
            for other in grammars.keys() - {kind}:
                both = {kind: source, other: grammars[other]}
                answer = await door.post("/generate", {"text": "x", "sampling_params": both})
                assert (answer.status, answer.error["param"] in {f"sampling_params.{name}" for name in both}) == (400, True)
        assert (
            await sent(door, sampling_params={"max_new_tokens": 2, "regex": "", "json_schema": "", "ebnf": ""})
        ).grammar is None
        as_object = await sent(door, sampling_params={"max_new_tokens": 2, "json_schema": {"a": 1}})
        assert as_object.grammar == GrammarSpec("json_schema", '{"a": 1}')

    run(test)


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("json_schema", "{"),
        ("json_schema", "[]"),
        ("json_schema", "5"),
        ("json_schema", 5),
        ("json_schema", "NaN"),
        ("json_schema", '{"a":' * 100 + "1" + "}" * 100),
        ("json_schema", '{"a": "' + "x" * 300_000 + '"}'),
        ("structural_tag", "[]"),
        ("structural_tag", True),
        ("regex", "a" * 5000),
        ("regex", 5),
        ("ebnf", "a" * 70_000),
    ],
    ids=lambda value: str(value)[:20],
)
def test_grammars_out_of_bounds(kind: str, source: Any) -> None:
    async def test(door: Door) -> None:
        await refused(door, f"sampling_params.{kind}", sampling_params={kind: source})

    run(test)


def test_logit_processors_are_picked_by_name() -> None:
    async def test(door: Door) -> None:
        assert door.runner.app is not None
        door.runner.app[SERVICE].info = msgspec.structs.replace(INFO, logit_processors=("Upper",))
        sampling = {"max_new_tokens": 2, "custom_params": {"a": [1]}}
        message = await sent(door, custom_logit_processor="Upper", sampling_params=sampling)
        assert (message.params.logit_processor, message.params.custom_params) == ("Upper", {"a": [1]})
        await ask(door, text=["a", "b"], custom_logit_processor=["Upper", None])
        assert [one.params.logit_processor for one in door.script.tokenized[-2:]] == ["Upper", None]
        serialized = await refused(door, "custom_logit_processor", custom_logit_processor='{"callable": "8004"}')
        assert "--logit-processor" in serialized.error["message"]
        assert "Upper" in (await refused(door, "custom_logit_processor", custom_logit_processor="Lower")).error["message"]
        await refused(door, "sampling_params.custom_params", sampling_params={"custom_params": {"a": "x" * 70_000}})
        await refused(door, "sampling_params.custom_params", sampling_params={"custom_params": [1]})

    run(test)


def test_hidden_states_are_those_of_the_prompt_and_then_one_for_each_token() -> None:
    async def test(door: Door) -> None:
        sampling = {"max_new_tokens": 3}
        result = await ask(door, text="x", return_hidden_states=True, sampling_params=sampling)
        assert result["meta_info"]["hidden_states"] == [[[0, 0]], [1, 1], [2, 2]]
        answer = await door.post(
            "/generate", {"text": "x", "return_hidden_states": True, "stream": True, "sampling_params": sampling}
        )
        *earlier, last = answer.events
        assert last["meta_info"]["hidden_states"] == [[[0, 0]], [1, 1], [2, 2]]
        assert not any("hidden_states" in event["meta_info"] for event in earlier)
        assert "hidden_states" not in (await ask(door, text="x"))["meta_info"]
        await refused(door, "return_hidden_states", return_hidden_states="x")

    run(test)


def test_ids_of_batches_and_choices() -> None:
    async def test(door: Door) -> None:
        results = await ask(door, text=["a", "b"], rid=["x", "y"], sampling_params={"max_new_tokens": 1, "n": 2})
        assert [result["meta_info"]["id"] for result in results] == ["x", "x", "y", "y"]
        assert (await ask(door, text="a", rid="mine"))["meta_info"]["id"] == "mine"
        assert isinstance(await ask(door, text=["a"]), list)
        await refused(door, "rid", rid="x" * 257)
        await refused(door, "rid[1]", text=["a", "b"], rid=["x", 5])

    run(test)


@pytest.mark.parametrize("num_prompts", [257, 10**6])
def test_no_list_is_longer_than_a_request_may_be(num_prompts: int) -> None:
    """Found out at the first item too many, so that a million cost as little as 257."""

    async def test(door: Door) -> None:
        for field, item in [
            ("text", b'"a"'),
            ("input_ids", b"[1]"),
            ("sampling_params", b"{}"),
            ("rid", b'"a"'),
            ("return_logprob", b"true"),
        ]:
            many = b"[" + b",".join([item] * num_prompts) + b"]"
            body = b'{"text":"x",' if field != "text" else b"{"
            answer = await door.post("/generate", body + b'"' + field.encode() + b'":' + many + b"}")
            assert (answer.status, answer.error["param"]) == (400, field)

    run(test)


# -- without a tokenizer -----------------------------------------------------------------------------------------------


def test_without_a_tokenizer_ids_go_in_and_come_out() -> None:
    async def test(door: Door) -> None:
        assert door.runner.app is not None
        service = door.runner.app[SERVICE]
        service.info = msgspec.structs.replace(INFO, skips_tokenizer=True)
        result = await ask(door, input_ids=[5, 6])
        assert result["token_ids"] == result["output_ids"]
        assert len(result["token_ids"]) == 2
        assert "text" not in result
        await refused(door, "text", text="x")
        await refused(door, "sampling_params.stop", text=None, input_ids=[1], sampling_params={"stop": "x"})
        for path, body in (
            ("/tokenize", {"prompt": "x"}),
            ("/detokenize", {"tokens": [1]}),
            ("/v1/completions", {"prompt": "x"}),
        ):
            answer = await door.post(path, body)
            assert (answer.status, answer.error["code"]) == (400, "unsupported_parameter")
        service.info = INFO

    run(test)


# -- the same text at both ends ----------------------------------------------------------------------------------------


def test_streams_are_cumulative_and_end_as_whole_replies_do() -> None:
    async def test(door: Door) -> None:
        sampling = {"max_new_tokens": 20, "sampling_seed": 3}
        whole = await ask(door, text="quite long", sampling_params=sampling)
        answer = await door.post("/generate", {"text": "quite long", "stream": True, "sampling_params": sampling})
        texts = [event["text"] for event in answer.events]
        assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
        last = answer.events[-1]
        for result in (whole, last):
            del result["meta_info"]["e2e_latency"], result["meta_info"]["id"]
        assert last == whole
        assert whole["text"] == expected("quite long", 20, 3)
        assert {event["meta_info"]["finish_reason"] is None for event in answer.events[:-1]} == {True}

    run(test)


def test_vertex() -> None:
    async def test(door: Door) -> None:
        body = {"instances": [{"text": "a"}, {"text": "b"}], "parameters": {"max_new_tokens": 1}}
        predictions = (await door.post("/vertex_generate", body)).json["predictions"]
        assert [len(result["output_ids"]) for result in predictions] == [1, 1]
        await door.post("/vertex_generate", {"instances": [{"input_ids": [3, 4]}], "parameters": {"max_new_tokens": 1}})
        assert isinstance(door.script.tokenized[-1].prompt, TokenPrompt)
        for wrong in ([], [{}], [{"text": "a"}, {"input_ids": [1]}]):
            assert (await door.post("/vertex_generate", {"instances": wrong})).error["param"] == "instances"
        huge = await door.post("/vertex_generate", {"instances": [{"input_ids": [3, -(2**90)]}]})
        assert (huge.status, huge.error["param"]) == (400, "input_ids[0]")

    run(test)
