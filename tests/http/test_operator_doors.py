"""What operators do: weights, memory, pauses, profiles, logs, and who may do it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from runtime.errors import Conflict
from runtime.messages import (
    ContinueGeneration,
    PauseGeneration,
    ReadWeights,
    ReleaseMemory,
    ResumeMemory,
    StartProfile,
    StopProfile,
    UpdateWeights,
)
from tests.http.door import Door, open_door

COMMANDS: list[tuple[str, Any, Any]] = [
    ("/pause_generation", None, PauseGeneration()),
    ("/pause_generation", {"mode": "in_place"}, PauseGeneration(mode="in_place")),
    ("/continue_generation", {}, ContinueGeneration()),
    ("/release_memory_occupation", {}, ReleaseMemory()),
    ("/release_memory_occupation", {"tags": ["kv_cache", "kv_cache"]}, ReleaseMemory(tags=("kv_cache",))),
    ("/resume_memory_occupation", None, ResumeMemory()),
    ("/get_weights_by_name", {"name": "w"}, ReadWeights(name="w", truncate_size=100)),
    ("/get_weights_by_name", {"name": "w", "truncate_size": 3}, ReadWeights(name="w", truncate_size=3)),
    ("/start_profile", None, StartProfile(output_dir="callboard_profiles")),
    ("/start_profile", {"output_dir": "a/b", "num_steps": 5}, StartProfile(output_dir="callboard_profiles/a/b", num_steps=5)),
    ("/stop_profile", None, StopProfile()),
    (
        "/update_weights_from_disk",
        {"model_path": "m", "abort_all_requests": True},
        UpdateWeights(model_path="m", aborts_all=True),
    ),
]


def run(test: Any, **options: Any) -> None:
    async def main() -> None:
        async with open_door(**options) as door:
            await test(door)
            if not options:
                await door.assert_unharmed()

    asyncio.run(main())


@pytest.mark.parametrize(("path", "body", "command"), COMMANDS, ids=lambda value: str(value)[:40])
def test_commands_reach_the_engine_and_its_refusals_the_client(path: str, body: Any, command: Any) -> None:
    async def test(door: Door) -> None:
        door.script.value = [1.5]
        answer = await door.post(path, body)
        assert answer.status == 200, answer.body
        assert door.script.commands == [command]
        door.script.refusal = Conflict("requests are open").failure
        refused = await door.post(path, body)
        assert refused.status == 409
        assert refused.json["error"]["message"] == "requests are open"

    run(test)


def test_new_weights_bring_their_name() -> None:
    async def test(door: Door) -> None:
        door.script.refusal = Conflict("does not fit").failure
        failed = await door.post("/update_weights_from_disk", {"model_path": "/new"})
        assert {"success": False, "message": "does not fit"}.items() <= failed.json.items()
        assert (await door.get("/get_model_info")).json["model_path"] == "/models/tiny"
        door.script.refusal = None
        updated = await door.post("/update_weights_from_disk", {"model_path": "/new", "load_format": None})
        assert updated.json == {
            "success": True,
            "message": "Succeeded to update model weights.",
            "num_paused_requests": 0,
        }
        assert (await door.get("/get_model_info")).json["model_path"] == "/new"
        assert (await door.get("/v1/models")).json["data"][0]["id"] == "/new"

    run(test)


def test_replies_have_the_form_of_sglang() -> None:
    async def test(door: Door) -> None:
        door.script.value = [[0.5, 1.0]]
        assert (await door.post("/get_weights_by_name", {"name": "w"})).json == [[0.5, 1.0]]
        assert (await door.request("GET", "/get_weights_by_name", {"name": "w"})).json == [[0.5, 1.0]]
        assert (await door.post("/release_memory_occupation", {})).body == b"null"
        assert (await door.get("/start_profile")).body == b"Start profiling.\n"
        assert (await door.get("/stop_profile")).body.startswith(b"Stop profiling.")

    run(test)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/pause_generation", {"mode": "slowly"}, "mode"),
        ("/release_memory_occupation", {"tags": ["cuda_graph"]}, "tags[0]"),
        ("/get_weights_by_name", {}, "name"),
        ("/get_weights_by_name", {"name": "w", "truncate_size": 0}, "truncate_size"),
        ("/start_profile", {"output_dir": "/etc"}, "output_dir"),
        ("/start_profile", {"output_dir": "a/../../b"}, "output_dir"),
        ("/start_profile", {"num_steps": 0}, "num_steps"),
        ("/start_profile", {"profile_by_stage": True}, "profile_by_stage"),
        ("/update_weights_from_disk", {}, "model_path"),
        ("/update_weights_from_disk", {"model_path": "m", "flush_cache": False}, "flush_cache"),
        ("/configure_logging", {"log_requests_level": 4}, "log_requests_level"),
        ("/configure_logging", {"dump_requests_folder": "/tmp"}, "dump_requests_folder"),
        ("/open_session", {"timeout": -1}, "timeout"),
        ("/abort_request", {}, "rid"),
    ],
    ids=str,
)
def test_wrong_bodies(path: str, body: Any, param: str) -> None:
    async def test(door: Door) -> None:
        answer = await door.post(path, body)
        assert (answer.status, answer.error["param"]) == (400, param), answer.body
        assert not door.script.commands

    run(test)


def test_the_log_of_requests_can_be_turned_on(caplog: pytest.LogCaptureFixture) -> None:
    async def test(door: Door) -> None:
        await door.generate("hidden", 1)
        await door.post("/configure_logging", {"log_requests": True, "log_requests_level": 2})
        await door.generate("shown", 1)
        await door.post("/configure_logging", {"log_requests_level": 0})
        await door.generate("level0", 1)
        await door.post("/configure_logging", {"log_requests": False, "dump_requests_threshold": 1000})
        await door.generate("silent", 1)

    with caplog.at_level(logging.INFO, "runtime.http"):
        run(test)
    text = caplog.text
    assert "shown" in text
    assert not any(word in text for word in ("hidden", "level0", "silent"))
    assert text.count("ended: length") == 2


def test_tokenize_and_back() -> None:
    async def test(door: Door) -> None:
        for path in ("/tokenize", "/v1/tokenize"):
            one = (await door.post(path, {"prompt": "ab", "model": "m"})).json
            assert one == {"tokens": [1, 97, 98], "count": 3, "max_model_len": 64}
            many = (await door.post(path, {"prompt": ["a", ""], "add_special_tokens": False})).json
            assert many == {"tokens": [[97], []], "count": [1, 0], "max_model_len": 64}
        for path in ("/detokenize", "/v1/detokenize"):
            assert (await door.post(path, {"tokens": [1, 97, 98]})).json == {"text": "ab"}
            assert (await door.post(path, {"tokens": [[97], []], "skip_special_tokens": False})).json == {"text": ["a", ""]}
            assert (await door.post(path, {"tokens": []})).json == {"text": ""}
        for body, param in [
            ({"prompt": None}, "prompt"),
            ({"prompt": [1]}, "prompt"),
            ({"prompt": "x" * 2_000_000}, "prompt"),
        ]:
            assert (await door.post("/tokenize", body)).error["param"] == param
        for tokens in ("x", None, [1000], [-1], [[1], 2], ["a"], [0] * 300_000):
            assert (await door.post("/detokenize", {"tokens": tokens})).error["param"].startswith("tokens")

    run(test)


def test_models_without_formats_say_so() -> None:
    async def test(door: Door) -> None:
        tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
        for path in ("/function_call", "/parse_function_call"):
            answer = await door.post(path, {"text": "x", "tools": tools, "tool_call_parser": "none such"})
            assert answer.status == 400
        assert (await door.post("/separate_reasoning", {"text": "x", "reasoning_parser": "none such"})).status == 400

    run(test)


def test_what_is_not_served_says_so() -> None:
    async def test(door: Door) -> None:
        for path in ("/encode", "/classify", "/v1/embeddings", "/load_lora_adapter", "/update_weights_from_tensor"):
            answer = await door.post(path, {"anything": 1})
            assert (answer.status, answer.error["code"]) == (400, "unsupported_endpoint")
        assert (await door.post("/api/chat", {})).status == 404
        assert (await door.post("/concate_and_append_request", {"src_rids": ["a"], "dst_rid": "b"})).status == 200
        assert (await door.get("/v1/loads")).json["loads"][0]["num_waiting_reqs"] == 0

    run(test)


def test_operators_have_a_key_of_their_own() -> None:
    async def test(door: Door) -> None:
        paths = {path for path, _, _ in COMMANDS} | {"/configure_logging", "/flush_cache"}
        for path in paths:
            body = next((body for known, body, _ in COMMANDS if known == path), {})
            for key, status in (("admin", 200), ("client", 403), ("other", 401)):
                answer = await door.post(path, body, headers={"Authorization": f"Bearer {key}"})
                assert answer.status == status, (path, key)
        for key in ("admin", "client"):
            answer = await door.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
            assert answer.status == 200
        info = await door.get("/get_server_info", headers={"Authorization": "Bearer client"})
        assert b"admin_api_key" not in info.body

    run(test, api_key="client", admin_api_key="admin")


def test_an_admin_key_alone_leaves_the_rest_open() -> None:
    async def test(door: Door) -> None:
        assert (await door.get("/v1/models")).status == 200
        assert (await door.post("/pause_generation", {})).status == 401

    run(test, admin_api_key="admin")
