"""A client that goes away takes its requests with it, wherever they are: exactly one abort each, and no more than that."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from tests.http.door import Door, open_door
from tests.http.scripted import expected

PATHS = ["/v1/chat/completions", "/v1/completions", "/generate"]


def body_of(path: str, text: str, is_streaming: bool) -> dict[str, Any]:
    if path == "/generate":
        return {"text": text, "stream": is_streaming, "sampling_params": {"max_new_tokens": 50, "n": 2}}
    prompt = {"prompt": text} if path == "/v1/completions" else {"messages": [{"role": "user", "content": text}]}
    return prompt | {"stream": is_streaming, "max_tokens": 50, "n": 2}


async def leave(door: Door, path: str, text: str, is_streaming: bool) -> None:
    """Send a request and go away when the engine can do no more for it."""
    num_before = len(door.script.tokenized)
    sending = asyncio.create_task(door.post(path, body_of(path, text, is_streaming)))
    await door.until(lambda: len(door.script.tokenized) == num_before + 2)
    mine = [message.request_id for message in door.script.tokenized[num_before:]]
    running = [door.script.running[request_id] for request_id in mine]
    await door.until(lambda: all(sequence.num_tokens == sequence.limit for sequence in running))
    sending.cancel()
    await asyncio.wait([sending])
    await door.until(lambda: all(request_id not in door.script.running for request_id in mine))
    causes = [(abort.request_id, abort.cause) for abort in door.script.aborts if abort.request_id in mine]
    assert sorted(causes) == [(request_id, "disconnect") for request_id in mine]


@pytest.mark.parametrize("is_streaming", [False, True])
@pytest.mark.parametrize("text", ["hold", "pause:1", "pause:20"], ids=["queued", "first token", "in the middle"])
@pytest.mark.parametrize("path", PATHS)
def test_leaving_aborts_every_sequence_once(path: str, text: str, is_streaming: bool) -> None:
    async def main() -> None:
        async with open_door() as door:
            other = asyncio.create_task(door.generate("pause:4 other", 9))
            await door.until(lambda: len(door.script.tokenized) == 1)
            await leave(door, path, text, is_streaming)
            door.release()
            assert (await other).json["meta_info"]["completion_tokens"] == 9
            await door.assert_unharmed()
            assert max(Counter(abort.request_id for abort in door.script.aborts).values()) == 1
            outcomes = Counter(stats.outcome for stats in door.script.stats)
            assert outcomes == {"aborted": 2, "finished": 2}

    asyncio.run(main())


def test_a_finished_request_is_not_aborted() -> None:
    async def main() -> None:
        async with open_door() as door:
            for path in PATHS:
                for is_streaming in (False, True):
                    assert (await door.post(path, body_of(path, "hi", is_streaming))).status == 200
            await door.assert_unharmed()
            assert door.script.aborts == []

    asyncio.run(main())


def test_a_client_that_leaves_while_it_uploads_costs_nothing() -> None:
    async def main() -> None:
        async with open_door() as door:
            _, writer = await asyncio.open_connection("127.0.0.1", door.port)
            writer.write(b'POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"text": "h')
            await writer.drain()
            await door.until(lambda: any(one.transport for one in door.connections()))
            writer.close()
            await writer.wait_closed()
            await door.until(lambda: not door.connections())
            assert door.script.tokenized == []
            await door.assert_unharmed()

    asyncio.run(main())


def test_abort_request_ends_exactly_what_bears_the_id() -> None:
    async def main() -> None:
        async with open_door() as door:
            rids = ["a", "ab", "abc", "a"]
            async with asyncio.TaskGroup() as group:
                sent = [group.create_task(door.generate("pause:3", 9, rid=rid)) for rid in rids]
                await door.until(lambda: len(door.script.tokenized) == 4)
                await door.until(lambda: all(sequence.num_tokens == 3 for sequence in door.script.running.values()))
                assert (await door.post("/abort_request", {"rid": "nobody"})).status == 200
                assert (await door.post("/abort_request", {"rid": "a"})).status == 200
                await door.until(lambda: len(door.script.running) == 2)
                door.release()
            for rid, task in zip(rids, sent, strict=True):
                meta_info, text = task.result().json["meta_info"], task.result().json["text"]
                assert meta_info["id"] == rid
                assert meta_info["finish_reason"]["type"] == ("abort" if rid == "a" else "length")
                assert (meta_info["completion_tokens"], bool(text)) == ((3, True) if rid == "a" else (9, True))
            assert {abort.cause for abort in door.script.aborts} == {"api"}
            await door.assert_unharmed()

    asyncio.run(main())


def test_abort_all() -> None:
    async def main() -> None:
        async with open_door() as door:
            async with asyncio.TaskGroup() as group:
                sent = [group.create_task(door.generate("hold", 9, stream=is_streaming)) for is_streaming in (True, False)]
                await door.until(lambda: len(door.script.tokenized) == 2)
                assert (await door.post("/abort_request", {"abort_all": True})).status == 200
            assert sent[0].result().events[-1]["meta_info"]["finish_reason"]["type"] == "abort"
            assert sent[1].result().json["meta_info"]["finish_reason"]["type"] == "abort"
            for body in ({}, {"rid": ""}, {"rid": 5}, {"colour": 1}):
                assert (await door.post("/abort_request", body)).status == 400
            await door.assert_unharmed()

    asyncio.run(main())


def test_choices_without_a_seed_differ_and_with_one_repeat() -> None:
    async def main() -> None:
        async with open_door() as door:
            body = {"prompt": ["x", "y"], "max_tokens": 8, "n": 2}
            seeds = []
            for fields in ({}, {}, {"seed": 5}, {"seed": 5}, {"seed": 2**63 - 1}):
                answer = await door.post("/v1/completions", body | fields)
                params = [message.params.seed for message in door.script.tokenized[-4:]]
                seeds.append(params)
                prompts = ["x", "x", "y", "y"]
                texts = [choice["text"] for choice in answer.json["choices"]]
                assert texts == [expected(prompt, 8, seed) for prompt, seed in zip(prompts, params, strict=True)]
            assert len(set(seeds[0] + seeds[1])) == 8
            assert seeds[2] == seeds[3] == [5, 6, 5, 6]
            assert seeds[4] == [2**63 - 1, 0, 2**63 - 1, 0]

    asyncio.run(main())
