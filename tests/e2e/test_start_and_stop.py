"""Good and bad starts, and what SIGTERM does to requests that are running."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
from pathlib import Path

import aiohttp
import orjson
import pytest
from tokenizers import Tokenizer, models

from tests.e2e.client import GenerateClient
from tests.e2e.server_process import READY, ServerProcess


def fails_to_start(arguments: list[str], tmp_path: Path, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and last line of the log of a server that must not start."""
    server = ServerProcess(arguments, tmp_path / "log", environment)
    try:
        code = server.process.wait(60)
    finally:
        server.stop()
    assert READY not in server.log
    assert "Traceback" not in server.log
    lines = server.log.strip().splitlines()
    return code, lines[-1] if lines else ""


def test_a_wrong_flag(tmp_path: Path) -> None:
    code, line = fails_to_start(["--no-such-flag"], tmp_path)
    assert code == 2
    assert "--no-such-flag" in line


def test_an_unknown_policy_lists_the_known_ones(tmp_path: Path) -> None:
    code, line = fails_to_start(["--schedule-policy", "best"], tmp_path)
    assert code == 2
    assert "dfs-weight, fcfs, lpm, priority, random" in line


def test_a_missing_model(tmp_path: Path) -> None:
    code, line = fails_to_start(["--model-path", str(tmp_path / "nothing.gguf")], tmp_path)
    assert code == 3
    assert "nothing.gguf" in line


def test_a_truncated_gguf(tmp_path: Path, embedded_gguf: Path) -> None:
    cut = tmp_path / "cut.gguf"
    with embedded_gguf.open("rb") as whole:
        cut.write_bytes(whole.read(10_000_000))
    code, line = fails_to_start(["--model-path", str(cut)], tmp_path)
    assert code == 3
    assert "cut.gguf" in line


def test_a_corrupt_safetensors_header(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 1}
    sizes = {"num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 64, "rms_norm_eps": 1e-5}
    (folder / "config.json").write_bytes(orjson.dumps({**config, **sizes, "max_position_embeddings": 64}))
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(folder / "tokenizer.json"))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}")
    code, line = fails_to_start(["--model-path", str(folder)], tmp_path)
    assert code == 3
    assert "model.safetensors" in line


def test_a_busy_port(tmp_path: Path, embedded_gguf: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, line = fails_to_start(["--port", str(port)], tmp_path)
    assert code == 4
    assert f"{port}" in line


def test_no_network_for_the_first_download(tmp_path: Path) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""}
    code, line = fails_to_start([], tmp_path, environment)
    assert code == 4
    assert "--model-path" in line


@pytest.mark.parametrize(("drain_timeout", "num_tokens"), [(60.0, 80), (0.2, 2000)], ids=["finishes", "is cut at the deadline"])
def test_sigterm_ends_running_streams_properly(
    tmp_path: Path, embedded_gguf: Path, drain_timeout: float, num_tokens: int
) -> None:
    server = ServerProcess(["--max-total-tokens", "8192", "--drain-timeout", str(drain_timeout)], tmp_path / "log")
    try:
        server.wait_until_ready()
        events = asyncio.run(stream_through_sigterm(server, num_tokens))
        assert server.process.wait(60) == 0, server.log
    finally:
        server.stop()
    assert events[-1] == b"[DONE]"
    if drain_timeout > 1:
        assert orjson.loads(events[-2])["meta_info"]["finish_reason"]["type"] == "length"
    else:
        assert orjson.loads(events[-2])["error"]["code"] == "draining"


async def stream_through_sigterm(server: ServerProcess, num_tokens: int) -> list[bytes]:
    """Start a long stream, send SIGTERM after its first event, see a new request refused, and read the stream to its end."""
    body = {"text": "Count:", "stream": True, "sampling_params": {"max_new_tokens": num_tokens, "ignore_eos": True}}
    events = []
    async with GenerateClient(server.url) as client:
        # A second connection opened in time, since a draining server may close its door.
        async with client.session.get(server.url + "/health") as response:
            assert response.status == 200
        async with client.session.post(server.url + "/generate", data=orjson.dumps(body)) as response:
            async for line in response.content:
                if not line.startswith(b"data: "):
                    continue
                events.append(line[6:].strip())
                if len(events) == 1:
                    server.process.send_signal(signal.SIGTERM)
                    await expect_refusal(client)
    return events


async def expect_refusal(client: GenerateClient) -> None:
    """A request after SIGTERM gets 503 with Retry-After; the signal itself may take a moment to arrive."""
    for _ in range(200):
        try:
            async with client.session.post(client.url + "/generate", data=b'{"text":"Hi"}') as response:
                if response.status == 503:
                    assert int(response.headers["Retry-After"]) >= 1
                    return
                assert response.status == 200
        except aiohttp.ClientConnectionError:
            return
    raise AssertionError("new requests were still served")
